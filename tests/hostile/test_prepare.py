"""Exceptions of tasks of ``prepare.py``."""

import pytest
from omegaconf import OmegaConf

import prepare


def unforeseen(path: str) -> str:
    raise RuntimeError(f"{path}: never seen before")


def run(**task) -> None:
    prepare.main(OmegaConf.create({"task": {"_target_": f"{__name__}.unforeseen", **task}}))


def test_an_unforeseen_exception_keeps_its_message_and_its_traceback():
    with pytest.raises(RuntimeError, match=r"a\.png: never seen before"):
        run(path="a.png")


def test_a_key_that_a_task_does_not_take_is_one_line(capsys):
    with pytest.raises(SystemExit):
        run(path="a.png", other=1)
    assert capsys.readouterr().err == "error: task: got an unexpected keyword argument 'other'\n"
