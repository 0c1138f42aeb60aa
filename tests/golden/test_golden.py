"""Parity with the official code, case by case, in float64.

Cases come from ``tests/golden/data`` or from the folder that the environment variable ``MEANFLOW_GOLDEN`` names.
"""

import json
import os
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden.cases import KINDS, Part, discover, parts, superseded

DATA = Path(__file__).parent / "data"
CASES = discover(Path(os.environ.get("MEANFLOW_GOLDEN", DATA)))
PARTS = [part for case in CASES for part in parts(case)]
LOSSES = ("dmf.fm_loss", "dmf.dmf_loss", "imf.loss")
BY_ID = {part.id: part for part in PARTS}


@cache
def computed(part_id: str) -> dict[str, torch.Tensor]:
    return BY_ID[part_id].compute()


def check(part: Part, results: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the error of every result over its tolerance; fail if one is missing or wrong."""
    absent = set(part.keys) - results.keys()
    assert not absent, f"not computed: {sorted(absent)}"
    assert part.keys, "nothing to compare"
    excesses = {key: part.case.excess(key, results[key]) for key in part.keys}
    wrong = {key: f"{excess:.3g}" for key, excess in excesses.items() if not excess <= 1}
    assert not wrong, f"error over tolerance above 1: {wrong}"
    return excesses


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.id)
def test_case(part, record_property):
    excesses = check(part, computed(part.id))
    record_property("worst_error_over_tolerance", max(excesses.values()))
    record_property("num_tensors", len(excesses))


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.kind in LOSSES], ids=lambda case: case.path.name)
def test_losses_and_gradients_through_compile(case):
    torch.compiler.reset()
    (part,) = parts(replace(case, compiled=True))
    check(part, part.compute())


@pytest.mark.parametrize("case", [case for case in CASES if case.kind in KINDS], ids=lambda case: case.path.name)
def test_every_result_of_a_case_belongs_to_a_part(case):
    compared = {key for part in parts(case) for key in part.keys}
    assert compared | superseded(case) == set(case.results())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.id)
def test_one_changed_digit_of_an_output_fails(part):
    """The fourth digit of the largest entry of any output."""
    results = computed(part.id)
    for key in part.keys:
        tensor = part.case.spec["tensors"][key]
        truth = part.case.stored[key]
        if tensor["role"] != "output" or not truth.any():
            continue
        changed = truth.clone()
        where = changed.abs().flatten().argmax()
        value = changed.flatten()[where].item()
        if tensor["tolerance"].get("exact"):
            digit = value - 1
        else:
            mantissa, exponent = f"{value:.9e}".split("e")
            position = mantissa.index(".") + 3
            digit = float(
                f"{mantissa[:position]}{(int(mantissa[position]) + 5) % 10}{mantissa[position + 1 :]}e{exponent}"
            )
        changed.view(-1)[where] = digit
        part.case.stored[key] = changed
        try:
            excess = part.case.excess(key, results[key])
        finally:
            part.case.stored[key] = truth
        assert excess > 1, key


def test_a_changed_file_fails(tmp_path):
    """The same through the files, from discovery on."""
    (case,) = [case for case in discover(DATA) if case.kind == "dmf.log_lv_loss"]
    folder = tmp_path / "changed"
    shutil.copytree(case.path, folder)
    (part,) = parts(discover(tmp_path)[0])
    check(part, part.compute())

    tensors = load_file(folder / "tensors.safetensors")
    tensors["log_loss"][1, 0, 0, 2] *= 1.0001
    save_file(tensors, folder / "tensors.safetensors")
    (part,) = parts(discover(tmp_path)[0])
    with pytest.raises(AssertionError, match=r"above 1: .*log_loss"):
        check(part, part.compute())


def part_of_kind(folder: Path, kind: str) -> Part:
    (folder / "case.json").write_text(json.dumps({"name": "new", "kind": kind, "tensors": {}}))
    (part,) = parts(discover(folder)[0])
    return part


def test_an_unknown_kind_fails(tmp_path):
    part = part_of_kind(tmp_path, "xyz.new")
    with pytest.raises(ValueError, match=r"new: unknown kind 'xyz\.new'; known are \['dmf\.center_crop"):
        check(part, part.compute())


def test_a_folder_without_cases_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no golden cases"):
        discover(tmp_path)


def test_every_known_kind_is_in_the_project():
    """Without the full set, every kind is still tested."""
    assert {case.kind for case in discover(DATA)} == set(KINDS)
