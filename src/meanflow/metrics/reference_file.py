"""Reference statistics in files: moments of features of real images.

========  ===========================================================  ==============================
file      content                                                      written by
========  ===========================================================  ==============================
``.npz``  ``mu``, ``sigma``; ``mu_s``, ``sigma_s`` (spatial features)  ADM, with images ``arr_0``
``.npz``  ``mu``, ``sigma``                                            EDM, JiT, iMF (PyTorch branch)
``.npz``  ``ref_mu``, ``ref_sigma``                                    iMF (JAX)
``.pkl``  ``{num_images, fid: {mu, sigma}, fd_dinov2: {...}}``         EDM2, DMF
``.npz``  as ADM; ``<name>.mu``, ... of other extractors;              ``write_reference``
          ``<name>.features``; ``metadata``, a JSON string
========  ===========================================================  ==============================
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from meanflow.files.atomic import atomic_file
from meanflow.files.npz_images import ARRAY as IMAGES
from meanflow.files.plain_pickle import read_plain_pickle
from meanflow.files.remote import sha256_of
from meanflow.metrics.reference import Reference
from meanflow.metrics.statistics import Gaussian

FORMAT_VERSION = 1
METADATA = "metadata"
# Names of extractors in the pickles of EDM2 and DMF.
PICKLED = {"fid": "inception", "fd_dinov2": "dinov2"}
VERSIONS = ("meanflow", "numpy", "timm", "torch", "torch_fidelity")


def read_reference(path: str | Path) -> Reference:
    """Return the statistics in a file of any of the forms above.

    Nothing in a file is executed. ``origin`` has the keys ``file``, ``sha256``, ``num_images`` (``None`` if unknown)
    and ``has_images`` (whether ``NpzImages`` finds images), and the keys that ``write_reference`` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no statistics, or its shapes do not agree.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no reference statistics at {path}")
    reference = _read_npz(path) if zipfile.is_zipfile(path) else _read_pickle(path)
    origin = {
        "has_images": False,
        **reference.origin,
        "file": str(path),
        "sha256": sha256_of(path),
        "num_images": next(gaussian.num_samples for gaussian in reference.pooled.values()),
    }
    return replace(reference, origin=origin)


def write_reference(reference: Reference, path: str | Path) -> None:
    """Write statistics as a ``.npz`` file. The file appears when it is complete.

    The moments of Inception features have the names that other programs read. Equal statistics give equal bytes.

    Raises:
        ValueError: If there are no statistics.
        TypeError: If ``origin`` holds values that JSON cannot represent.
        OSError: If the file cannot be written.
    """
    if not reference.pooled:
        raise ValueError(f"{path}: there are no statistics to write")
    arrays: dict[str, np.ndarray] = {}
    for suffix, moments in (("", reference.pooled), ("_s", reference.spatial)):
        for name, gaussian in moments.items():
            arrays[_key(name, "mu" + suffix)] = gaussian.mu.cpu().numpy()
            arrays[_key(name, "sigma" + suffix)] = gaussian.sigma.cpu().numpy()
    for name, features in reference.features.items():
        arrays[f"{name}.features"] = features.cpu().numpy()
    metadata = {
        "format_version": FORMAT_VERSION,
        "extractors": {
            name: {"weights_sha256": reference.weights_sha256.get(name), "num_images": gaussian.num_samples}
            for name, gaussian in reference.pooled.items()
        },
        "origin": dict(reference.origin),
        "versions": {name: version(name) for name in VERSIONS},
    }
    arrays[METADATA] = np.array(json.dumps(metadata))
    with atomic_file(Path(path)) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _key(name: str, key: str) -> str:
    return key if name == "inception" else f"{name}.{key}"


def _read_npz(path: Path) -> Reference:
    try:
        with np.load(path, allow_pickle=False) as file:
            if METADATA in file:
                return _read_own(file, path)
            for mu, sigma in (("mu", "sigma"), ("ref_mu", "ref_sigma")):
                if mu in file and sigma in file:
                    pooled = _gaussian(_array(file, mu, path), _array(file, sigma, path), None, str(path))
                    spatial = _spatial(file, "inception", None, path)
                    return Reference({"inception": pooled}, spatial, origin={"has_images": IMAGES in file})
            raise ValueError(
                f"{path} holds no reference statistics: it has {sorted(file)} in place of mu and sigma, or ref_mu and "
                "ref_sigma"
            )
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged: {_first_line(error)}") from None


def _read_own(file: Mapping[str, np.ndarray], path: Path) -> Reference:
    try:
        metadata = json.loads(str(_array(file, METADATA, path)))
        format_version = metadata["format_version"]
        counts = {name: entry["num_images"] for name, entry in metadata["extractors"].items()}
        hashes = {name: entry["weights_sha256"] for name, entry in metadata["extractors"].items()}
        origin = metadata["origin"] | {"versions": metadata["versions"], "has_images": IMAGES in file}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: its metadata are not as they were written ({error!r})") from None
    if format_version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {format_version}, this program reads {FORMAT_VERSION}")
    pooled: dict[str, Gaussian] = {}
    spatial: dict[str, Gaussian] = {}
    features: dict[str, Tensor] = {}
    for name, count in counts.items():
        mu, sigma = (_array(file, _key(name, key), path) for key in ("mu", "sigma"))
        pooled[name] = _gaussian(mu, sigma, count, f"{path}, {name}")
        spatial |= _spatial(file, name, count, path)
        if (key := f"{name}.features") in file:
            features[name] = torch.from_numpy(_array(file, key, path))
    if not pooled:
        raise ValueError(f"{path} holds no reference statistics: its metadata name no feature extractor")
    known = {name: value for name, value in hashes.items() if value is not None}
    return Reference(pooled, spatial, features, weights_sha256=known, origin=origin)


def _spatial(file: Mapping[str, np.ndarray], name: str, num_images: int | None, path: Path) -> dict[str, Gaussian]:
    mu, sigma = _key(name, "mu_s"), _key(name, "sigma_s")
    if mu not in file:
        return {}
    where = f"{path}, {name}, spatial"
    return {name: _gaussian(_array(file, mu, path), _array(file, sigma, path), num_images, where)}


def _array(file: Mapping[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    try:
        return file[key]
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {key}: {_first_line(error)}") from None


def _read_pickle(path: Path) -> Reference:
    content = read_plain_pickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no reference statistics, but a {type(content).__name__}")
    count = content.get("num_images")
    num_images = count if isinstance(count, int) else None
    found = {str(name): value for name, value in content.items() if isinstance(value, dict)}
    if not found:
        raise ValueError(f"{path} holds no reference statistics: it has {sorted(map(str, content))}")
    return Reference(
        pooled={
            PICKLED.get(name, name): _gaussian(value.get("mu"), value.get("sigma"), num_images, f"{path}, {name}")
            for name, value in found.items()
        }
    )


def _gaussian(mu: object, sigma: object, num_samples: int | None, where: str) -> Gaussian:
    mean, covariance = _numbers("mu", mu, where), _numbers("sigma", sigma, where)
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{where}: mu {mean.shape} and sigma {covariance.shape} must be (D,) and (D, D)")
    return Gaussian(_float64(mean), _float64(covariance), num_samples)


def _numbers(key: str, array: object, where: str) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{where}: {key} must be an array of floating-point numbers, got {found}")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: {key} must be finite")
    return array


def _float64(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
