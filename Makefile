# make help lists the targets. Each target makes the files that it needs: "make test" works on a fresh clone.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
SEED   ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup quickstart readme bench test test-all lint types format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv and install everything that the other targets need

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $(READY)

quickstart: setup ## train, sample and score on scikit-learn's digits, on a CPU (SEED=0)
	$(BIN)/python scripts/quickstart.py --seed $(SEED)

readme: setup ## update the table and its summary in README.md from results/
	$(BIN)/python scripts/readme_tables.py

bench: setup ## compare the cost of training steps with the official steps; under 10 minutes (results/bench/)
	$(BIN)/python -m benchmarks

test: setup ## run the tests that need no GPU, in two processes
	$(BIN)/python -m pytest -n 2 -m "not gpu"

test-all: setup ## run all tests; a machine without a GPU skips the tests for a GPU
	$(BIN)/python -m pytest -n 2

lint: setup ## check style, formatting and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup ## check static types
	$(BIN)/mypy

format: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches, and keep data and runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
