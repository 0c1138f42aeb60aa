"""How programs report errors."""

import pytest

from meanflow.display.errors import one_line_errors


class WrappedError(Exception):
    pass


def raise_wrapped(error):
    raise WrappedError("around it") from error


@pytest.mark.parametrize("error", [ValueError("a\n  b"), FileNotFoundError("a b"), FloatingPointError("a b")])
def test_an_expected_error_is_one_line(capsys, monkeypatch, error):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise_wrapped(error)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: a b\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("a bug")


def test_the_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="here"), one_line_errors():
        raise ValueError("here")
