"""Reference statistics as the field publishes them: means and covariances of features of real images.

=======================  =======================================================  ==================================
file                     content                                                  written by
=======================  =======================================================  ==================================
``.npz``                 ``mu``, ``sigma``                                        ADM, EDM, JiT, iMF (PyTorch branch)
``.npz``                 ``ref_mu``, ``ref_sigma``                                iMF (JAX)
``.pkl``                 ``{num_images, fid: {mu, sigma}, fd_dinov2: {...}}``     EDM2, DMF
=======================  =======================================================  ==================================
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meanflow.metrics.statistics import Gaussian

KEYS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))


def read_reference(path: str | Path) -> dict[str, Gaussian]:
    """Return the moments in a file of reference statistics, by the name of the features.

    Args:
        path: A ``.npz`` file, whose features are Inception's (``fid``), or a ``.pkl`` file, which names them. A pickle
            may hold NumPy arrays, dictionaries, lists, numbers and strings; of anything else nothing is executed.

    Returns:
        ``{"fid": Gaussian, ...}``, float64.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds something else, or moments that do not fit together.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no reference statistics at {path}")
    content = _read_npz(path) if zipfile.is_zipfile(path) else _read_pickle(path)
    count = content.get("num_images")
    num_samples = count if isinstance(count, int) else None
    found = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    if not found:
        raise ValueError(f"{path} holds no reference statistics: it has {sorted(map(str, content))}")
    return {str(name): _gaussian(moments, num_samples, f"{path}, {name}") for name, moments in found.items()}


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            for mu, sigma in KEYS:
                if mu in file and sigma in file:
                    return {"fid": {"mu": file[mu], "sigma": file[sigma]}}
            raise KeyError(f"it has {sorted(file)} in place of mu and sigma, or ref_mu and ref_sigma")
    except KeyError as error:
        raise ValueError(f"{path} holds no reference statistics: {error.args[0]}") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {_first_line(error)}") from None


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file, str(path)).load()
    except RefusedError:
        raise
    except Exception as error:  # a broken pickle can raise almost anything
        raise ValueError(f"{path} is truncated or holds no statistics: {_first_line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no reference statistics, but a {type(content).__name__}")
    return content


class RefusedError(ValueError):
    """A pickle asks for something that is not admitted."""


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise RefusedError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _admitted() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return what rebuilding a NumPy array calls, by the names of NumPy 1 and 2 and of old pickles of bytes."""
    admitted: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda *arguments: _encode_latin1(*arguments),
    }
    reconstruct: Any = np.zeros(1).__reduce__()[0]
    from_buffer: Any = np.zeros(1).__reduce_ex__(5)[0]
    for package in ("numpy.core", "numpy._core"):
        # Functions of this call only: a pickle can set attributes of what it is given.
        admitted[package + ".multiarray", "_reconstruct"] = lambda *arguments: reconstruct(*arguments)
        admitted[package + ".numeric", "_frombuffer"] = lambda *arguments: from_buffer(*arguments)
    return admitted


class PlainUnpickler(pickle.Unpickler):
    """Unpickler of arrays, containers, numbers and strings; refuses everything else by its name."""

    def __init__(self, file: Any, source: str) -> None:
        super().__init__(file)
        self.source = source
        self.admitted = _admitted()

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few admitted callables.

        Raises:
            RefusedError: If another one is asked for.
        """
        if (module, name) not in self.admitted:
            raise RefusedError(
                f"{self.source} is refused: it holds {module}.{name} besides arrays and plain containers"
            )
        return self.admitted[module, name]


def _gaussian(moments: Mapping[str, Any], num_samples: int | None, where: str) -> Gaussian:
    arrays = {key: moments.get(key) for key in ("mu", "sigma")}
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise ValueError(f"{where}: {key} must be an array of floating-point numbers, got {type(array).__name__}")
        if not np.isfinite(array).all():
            raise ValueError(f"{where}: {key} must be finite")
    mu, sigma = (torch.from_numpy(np.array(array, dtype=np.float64)) for array in arrays.values())
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"{where}: mu {tuple(mu.shape)} and sigma {tuple(sigma.shape)} must be (D,) and (D, D)")
    return Gaussian(mu, sigma, num_samples)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
