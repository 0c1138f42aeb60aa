"""The task ``stats``: images in, a file of reference statistics out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from datamodules.preparation.bad_images import record_of, require_few
from datamodules.preparation.decoding import DecodedPart
from datamodules.preparation.lock import exclusive, run_lock, suppress_if_published
from datamodules.preparation.progress import note_bad_images, note_listing, start_progress
from datamodules.preparation.statistics.images import open_real_images
from datamodules.preparation.statistics.partial import PartialStatistics, read_starts
from datamodules.preparation.statistics.plan import StatisticsPlan, StatisticsSettings
from datamodules.preparation.statistics.workspace import StatisticsWorkspace
from meanflow.display.progress import ImageProgress
from meanflow.distributed import Ranks
from meanflow.metrics.features.extractor import FeatureExtractor
from meanflow.metrics.reference_file import read_reference, write_reference


def prepare_statistics(
    source: str | Path,
    out: str | Path,
    features: Mapping[str, FeatureExtractor],
    resolution: int | None = None,
    num_features: int = 10_000,
    max_bad: int = 10,
    batch_size: int = 128,
    save_seconds: float = 30.0,
    num_workers: int | None = None,
    device: str = "auto",
    rank: int | None = None,
    world_size: int | None = None,
) -> str:
    """Write reference statistics of real images. The same call continues a run that was killed.

    A killed run loses the work of the last ``save_seconds``. The file does not depend on how often a run was killed, or
    on the number of worker processes. The number of ranks changes the last digits of the float64 numbers.

    Args:
        source: Folder or zip file of images, whose labels are ignored, or a store of pixels or of latents. The codec of
            a store of latents decodes its images.
        out: ``.npz`` file of the statistics.
        features: Feature extractors.
        resolution: Height and width of the crops (``crop_image``). A store has a resolution of its own.
        num_features: Number of images, chosen at random, whose features are kept (for KID, precision and recall).
        max_bad: Largest number of images that may fail to decode. These images are left out.
        batch_size: Images that are decoded at once, and go through the extractors at once.
        save_seconds: Seconds after which a rank writes its statistics to the disk.
        num_workers: Processes that decode. ``None`` starts one for each core but one; 0 decodes in this process.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        rank: Number of this process, unless ``torchrun`` or a SLURM job array sets it.
        world_size: Number of processes.

    Returns:
        A sentence that describes the statistics.

    Raises:
        FileExistsError: If ``out`` holds something else, or another run writes it.
        FileNotFoundError: If the source, or the weights of an extractor or a codec, do not exist.
        OSError: If a file cannot be read or written. Finished work is kept.
        ValueError: If a value is not allowed, the source has no images, or too many of them are bad.
    """
    for key, value in (("max_bad", max_bad), ("num_workers", num_workers), ("save_seconds", save_seconds)):
        if value is not None and value < 0:
            raise ValueError(f"{key} must be at least 0, got {value}")
    out = Path(out)
    if out.suffix != ".npz":
        raise ValueError(f"out must end in .npz, got {out}")
    ranks = Ranks.detect(rank, world_size)
    chosen_device = ranks.device(device)
    extractors = list(features.values())
    for extractor in extractors:
        extractor.prepare()
    images = open_real_images(source, resolution)
    settings = StatisticsSettings(
        source=os.path.abspath(source),
        images=images.origin,
        resolution=images.resolution,
        features={extractor.name: extractor.weights_sha256() for extractor in extractors},
        num_features=num_features,
        batch_size=batch_size,
    )
    workspace = StatisticsWorkspace(out)
    if out.exists():
        return _finished(workspace, settings)
    workspace.make()
    with suppress_if_published(out), run_lock(workspace.folder, ranks):
        # The first rank lists the images, which can take minutes; the other ranks wait for its plan.
        with exclusive(workspace.lock):
            if out.exists():
                return _finished(workspace, settings)
            plan = workspace.plan(settings, lambda: StatisticsPlan.write(workspace.folder, settings, images.list()))
            pending = workspace.pending(plan, ranks)
        statistics = PartialStatistics(extractors, plan.chosen)
        if (file := workspace.file(ranks)).exists():
            statistics.merge(file)
        parts = images.parts(plan.names, pending, num_workers, chosen_device)
        starts = set(statistics.starts)
        done = sum(len(part) for part in plan.parts() if part.start in starts)
        progress = start_progress("statistics", ranks, done + sum(map(len, pending)), done)
        note_listing(progress, ranks, plan.notes)
        _extract(zip(pending, parts, strict=True), plan, statistics, file, max_bad, save_seconds, progress)
        if missing := _publish(workspace, plan, extractors, max_bad):
            return f"{out}: rank {ranks.rank} has done its part; {missing} of {len(plan)} images are still to come"
    return _finished(workspace, settings)


def _extract(
    parts: Iterable[tuple[range, DecodedPart]],
    plan: StatisticsPlan,
    statistics: PartialStatistics,
    file: Path,
    max_bad: int,
    save_seconds: float,
    progress: ImageProgress,
) -> None:
    saved = time.monotonic()
    # The fastest algorithms of a GPU add in any order, and statistics must not change from run to run.
    deterministic = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with progress.shown(), torch.no_grad(), deterministic:
        for numbers, part in parts:
            note_bad_images(progress, part.bad, plan.names)
            try:
                statistics.add(numbers.start, part)
            except ValueError as error:
                first, last = plan.names[numbers.start], plan.names[numbers.stop - 1]
                raise ValueError(f"images {first} to {last}: {error}") from error
            progress.advance(len(numbers))
            too_many_bad = len(statistics.bad) > max_bad
            if too_many_bad or progress.done == progress.total or time.monotonic() - saved >= save_seconds:
                statistics.write(file)
                saved = time.monotonic()
            require_few(statistics.bad, plan.names, max_bad)


def _publish(
    workspace: StatisticsWorkspace, plan: StatisticsPlan, extractors: Iterable[FeatureExtractor], max_bad: int
) -> int:
    """Write the file if the statistics of all parts exist; return how many images are missing."""
    with exclusive(workspace.lock):
        if workspace.out.exists():  # another rank was faster
            return 0
        files = workspace.files()
        done = read_starts(files)
        if missing := sum(len(part) for part in plan.parts() if part.start not in done):
            return missing
        total = PartialStatistics(extractors, plan.chosen)
        for file in files:
            total.merge(file)
        total.bad.sort()
        require_few(total.bad, plan.names, max_bad)
        if total.builder.num_images < 2:
            first = "".join(f"; the first bad image is {plan.names[i]} ({reason})" for i, reason in total.bad[:1])
            raise ValueError(
                f"{plan.settings['source']}: statistics need at least 2 images, {total.builder.num_images} of its "
                f"{len(plan)} can be decoded{first}"
            )
        origin = plan.settings | {
            "num_images": total.builder.num_images,
            "names_sha256": plan.names_sha256,
            "bad_images": record_of(total.bad, plan.names),
            "num_enlarged": total.num_enlarged,
            "num_rotated": total.num_rotated,
            "notes": plan.notes,
            "pillow": version("pillow"),  # it decodes and resizes; write_reference records the other versions
        }
        write_reference(total.builder.compute(origin), workspace.out)
        workspace.remove()
    return 0


def _finished(workspace: StatisticsWorkspace, settings: StatisticsSettings) -> str:
    out = workspace.out
    try:
        reference = read_reference(out)
    except ValueError as error:
        raise FileExistsError(
            f"{out}: exists already and is no file of statistics; remove it or write elsewhere"
        ) from error
    settings.require_equal(reference.origin if "names_sha256" in reference.origin else None, out)
    workspace.remove()  # a run that was killed just after publishing leaves its workspace
    origin = reference.origin
    features = ", ".join(f"{name} ({gaussian.mu.numel()})" for name, gaussian in reference.pooled.items())
    notes = [
        f"{number} {note}"
        for number, note in (
            (len(origin["bad_images"]), "bad images are listed in it"),
            (origin["num_enlarged"], f"images are smaller than {origin['resolution']} pixels and were enlarged"),
            (origin["num_rotated"], "images have an EXIF orientation, which was not applied"),
        )
        if number
    ]
    kept = next((len(rows) for rows in reference.features.values()), 0)
    statistics = f"statistics of {origin['num_images']} images in the features {features}"
    return "; ".join([f"{out}: {statistics}", f"features of {kept} images are kept", *notes])
