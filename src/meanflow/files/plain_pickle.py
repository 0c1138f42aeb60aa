"""Reading of pickles that hold arrays of numbers, dictionaries, lists, numbers and strings. No code in them is run."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# Booleans, integers and floating-point numbers, as NumPy names them in pickles.
NUMBER = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])")


class RefusedError(ValueError):
    """A pickle holds an object that ``read_plain_pickle`` does not read."""


def read_plain_pickle(path: str | Path) -> object:
    """Return the content of a pickle that holds only NumPy arrays of numbers, dict, list, int, float and str.

    Raises:
        RefusedError: If the pickle holds another object or calls another function. The message names the object. No
            code in the pickle has run.
        ValueError: If the file is truncated or no pickle.
    """
    try:
        with open(path, "rb") as file:
            return _plain(PlainUnpickler(file).load(), set())
    except RefusedError as error:
        raise RefusedError(
            f"{path} is refused: it holds {error} besides arrays of numbers and plain containers"
        ) from None
    except Exception as error:  # a broken pickle can raise almost anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is truncated or no pickle: {reason}") from None


class PlainUnpickler(pickle.Unpickler):
    """Unpickler that knows only stand-ins for the few functions that rebuild NumPy arrays."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.admitted = _admitted()

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        """Return the stand-in for a function.

        Raises:
            RefusedError: If the function has no stand-in.
        """
        if (module, name) not in self.admitted:
            raise RefusedError(f"{module}.{name}")
        return self.admitted[module, name]


class _Dtype:
    """Stand-in for ``np.dtype``.

    The real class accepts a state that reinterprets bytes as object pointers. A pickle therefore never reaches it.
    """

    def __init__(self, code: object, *_: object) -> None:
        if not (isinstance(code, str) and NUMBER.fullmatch(code)):
            raise RefusedError(f"an array of {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, byte_order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise RefusedError("an array of records")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """Stand-in for an array. ``to_numpy`` builds the array from its bytes."""

    def __init__(self, data: Any = b"", dtype: Any = None, shape: Any = (0,), order: str = "C") -> None:
        self.data, self.dtype, self.shape, self.order = data, dtype, shape, order

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, is_fortran, self.data = state
        self.order = "F" if is_fortran else "C"

    def to_numpy(self) -> np.ndarray:
        array: np.ndarray = np.frombuffer(self.data, self.dtype.dtype)
        return array.reshape(self.shape, order="F" if self.order == "F" else "C").copy()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise RefusedError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _refuse(call: str) -> None:
    raise RefusedError(call)


def _admitted() -> dict[tuple[str, str], Callable[..., object]]:
    """Return stand-ins by module and function name: the names of NumPy 1 and 2, and ``_codecs.encode`` of old pickles.

    Each pickle gets new stand-ins, because a pickle can set their attributes.
    """
    admitted: dict[tuple[str, str], Callable[..., object]] = {
        ("numpy", "ndarray"): lambda *_: _refuse("a call of numpy.ndarray"),  # only an argument of _reconstruct
        ("numpy", "dtype"): lambda *arguments: _Dtype(*arguments),
        ("_codecs", "encode"): lambda *arguments: _encode(*arguments),
    }
    for package in ("numpy.core", "numpy._core"):
        admitted[package + ".multiarray", "_reconstruct"] = lambda *_: _Array()
        admitted[package + ".numeric", "_frombuffer"] = lambda *arguments: _Array(*arguments)
    return admitted


def _plain(value: object, seen: set[int]) -> object:
    """Replace stand-ins by arrays. Refuse tuples, sets and other objects that a pickle makes without a function."""
    if isinstance(value, _Array):
        return value.to_numpy()
    if isinstance(value, int | float | str):
        return value
    if not isinstance(value, dict | list):
        raise RefusedError(f"a {type(value).__name__}")
    if id(value) in seen:  # a container can occur several times, also inside itself
        return value
    seen.add(id(value))
    container: Any = value  # a dictionary or a list
    items = container.items() if isinstance(container, dict) else enumerate(container)
    for key, item in list(items):
        _plain(key, seen)
        container[key] = _plain(item, seen)
    return value
