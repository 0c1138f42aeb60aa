# make help lists the targets. Each makes what it needs: "make test" works on a fresh clone.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
SEED   ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup quickstart readme bench test test-all lint types format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install everything that the other targets use

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $(READY)

quickstart: setup ## flow -> flow map -> samples and scores, on a CPU (SEED=0)
	$(BIN)/python scripts/quickstart.py --seed $(SEED)

readme: setup ## write the results tables of README.md anew from results/
	$(BIN)/python scripts/readme_tables.py

bench: setup ## cost of training steps and samples, against the official steps; under 10 minutes (results/bench/)
	$(BIN)/python -m benchmarks

test: setup ## the tests, two at a time
	$(BIN)/python -m pytest -n 2 -m "not gpu"

test-all: setup ## the tests, those for a GPU included (skipped where there is none)
	$(BIN)/python -m pytest -n 2

lint: setup ## style, formatting and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup ## static types
	$(BIN)/mypy

format: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the targets made, data and runs aside
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
