"""The task ``latents``: images in, a latent store out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from datamodules.images.files import ImageFiles, PixelStore, open_image_files
from datamodules.images.listing import list_images
from datamodules.images.read_ahead import read_ahead
from datamodules.preparation.bad_images import require_few
from datamodules.preparation.decoding import PartDataset
from datamodules.preparation.latents.encoding import Encoder, NonFiniteLatentError
from datamodules.preparation.latents.plan import LatentPlan, LatentSettings
from datamodules.preparation.latents.workspace import LatentWorkspace
from datamodules.preparation.lock import exclusive, run_lock
from datamodules.preparation.progress import note_bad_images, note_listing, start_progress
from datamodules.store.manifest import Configuration, read_existing
from meanflow.codecs import Codec
from meanflow.display.progress import ImageProgress
from meanflow.distributed import Ranks


def prepare_latents(
    source: str | Path,
    out: str | Path,
    codec: Codec,
    resolution: int,
    normalization: str | None = None,
    dtype: str = "float16",
    precision: str = "fp32",
    flipped_copies: bool = False,
    num_classes: int | None = None,
    max_bad: int = 10,
    batch_size: int = 128,
    shard_size: int = 8192,
    num_workers: int | None = None,
    device: str = "auto",
    rank: int | None = None,
    world_size: int | None = None,
) -> str:
    """Encode images as a latent store. The same call continues a run that was killed.

    A killed run loses the batch that it was encoding. The bytes of the finished store do not depend on how often a run
    was killed, on the number of worker processes, or on the number of ranks.

    Args:
        source: Folder, zip file or store of pixels; see ``list_images``.
        out: Folder of the new store.
        codec: The codec that encodes.
        resolution: Height and width of the crops (``crop_image``).
        normalization: How networks see the latents: ``scale_0_18215``, ``imf``, ``identity``, or ``None`` for the
            scaling factor of the codec.
        dtype: ``float16`` or ``float32``.
        precision: Precision of the encoder: ``fp32`` or ``bf16``.
        flipped_copies: Encode the horizontally flipped images as well.
        num_classes: Number of classes, if the labels of a ``dataset.json`` do not show it.
        max_bad: Largest number of images that may fail to decode. These images are left out.
        batch_size: Images that are decoded, encoded and written at once.
        shard_size: Images in a shard. Ranks share the work by whole shards.
        num_workers: Processes that decode. ``None`` starts one for each core but one; 0 decodes in this process.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        rank: Number of this process, unless ``torchrun`` or a SLURM job array sets it.
        world_size: Number of processes.

    Returns:
        A sentence that describes the store.

    Raises:
        FileExistsError: If ``out`` holds something else, or another run writes it.
        FileNotFoundError: If the source or the weights of the codec do not exist.
        OSError: If a file cannot be read or written. Finished work is kept.
        ValueError: If a value is not allowed, the source has no images, or too many of them are bad.
    """
    for key, value in (("max_bad", max_bad), ("num_workers", num_workers)):
        if value is not None and value < 0:
            raise ValueError(f"{key} must be at least 0, got {value}")
    ranks = Ranks.detect(rank, world_size)
    chosen_device = ranks.device(device)
    files = open_image_files(source)
    settings = LatentSettings(
        source=os.path.abspath(source),
        codec=codec.config,
        codec_weights=codec.fingerprint(),
        normalization=normalization,
        resolution=resolution,
        dtype=dtype,
        precision=precision,
        flipped_copies=flipped_copies,
        num_classes=num_classes,
        batch_size=batch_size,
        shard_size=shard_size,
    )
    _require_encodable(files, codec, resolution)
    configuration = Configuration(
        kind="latents" if settings.codec["name"] == "identity" else "moments",
        codec=settings.codec,
        normalization=settings.normalization_for(codec),
        resolution=resolution,
        latent_shape=codec.latent_shape(resolution),
        dtype=dtype,
        num_classes=1,  # the plan has the real number
        class_names=(),
    )
    workspace = LatentWorkspace(Path(out))
    if Path(out).exists():
        return _finished(workspace, settings)
    workspace.make()
    with run_lock(workspace.folder, ranks):
        # The first rank lists the images, which can take minutes; the other ranks wait for its plan.
        with exclusive(workspace.folder / "plan.lock"):
            plan = workspace.plan(settings, lambda: LatentPlan.write(workspace.folder, settings, list_images(files)))
        configuration = replace(configuration, num_classes=plan.num_classes, class_names=plan.class_names)
        encoder = Encoder(codec, configuration.row_shape, dtype, precision, flipped_copies, chosen_device)
        progress = _encode(workspace, plan, ranks, files, encoder, max_bad, num_workers)
        require_few(workspace.bad_images(plan, range(plan.num_shards)), plan.names, max_bad)
        totals = workspace.totals(plan)
        if missing := workspace.publish(plan, configuration):
            return (
                f"{out}: rank {ranks.rank} has done its part; {missing} of {plan.num_shards} shards are still to come"
            )
    if totals["num_enlarged"]:
        progress.note(f"{totals['num_enlarged']} images are smaller than {resolution} pixels and were enlarged")
    if totals["num_rotated"]:
        progress.note(f"{totals['num_rotated']} images have an EXIF orientation, which was not applied")
    return _finished(workspace, settings)


def _encode(
    workspace: LatentWorkspace,
    plan: LatentPlan,
    ranks: Ranks,
    files: ImageFiles,
    encoder: Encoder,
    max_bad: int,
    num_workers: int | None,
) -> ImageProgress:
    shards = ranks.own(plan.num_shards)
    total = sum(len(part) for shard in shards for part in plan.parts(shard))
    pending = workspace.pending(plan, ranks)
    bad = workspace.bad_images(plan, shards)
    progress = start_progress("encoding", ranks, total, done=total - sum(map(len, pending)))
    note_listing(progress, ranks, plan.notes)
    channels, resolution = encoder.codec.image_channels, plan.settings["resolution"]
    dataset = PartDataset(files, plan.names, pending, resolution, channels)
    decoded_parts = read_ahead(dataset, num_workers, pin_memory=encoder.device.type == "cuda")
    with progress.shown(), torch.no_grad():
        for part, decoded in zip(pending, decoded_parts, strict=True):
            note_bad_images(progress, decoded.bad, plan.names)
            try:
                encoded = encoder(decoded)
            except NonFiniteLatentError as error:
                raise ValueError(
                    f"{plan.names[decoded.kept[error.row]]}: its latent is not finite in {plan.settings['dtype']}"
                ) from None
            workspace.add(plan, part, encoded)
            progress.advance(len(part))
            bad += decoded.bad
            require_few(bad, plan.names, max_bad)
    return progress


def _require_encodable(files: ImageFiles, codec: Codec, resolution: int) -> None:
    if codec.image_channels not in (1, 3):
        raise ValueError(f"codec must take images of 1 or 3 channels, got {codec.image_channels}")
    if isinstance(files, PixelStore) and files.store.configuration.resolution != resolution:
        raise ValueError(
            f"resolution must be {files.store.configuration.resolution}, as in the store {files.path}, got {resolution}"
        )


def _finished(workspace: LatentWorkspace, settings: LatentSettings) -> str:
    out = workspace.out
    manifest = read_existing(out)
    settings.require_equal(manifest.preparation, out)
    workspace.remove()  # a run that was killed just after publishing leaves its workspace
    bad = f"; {len(manifest.bad_images)} bad images are listed in its manifest" if manifest.bad_images else ""
    return (
        f"{out}: {manifest.num_samples} {manifest.kind} of {manifest.num_classes} classes, "
        f"{' x '.join(map(str, manifest.latent_shape))} {manifest.dtype}, normalization {manifest.normalization}{bad}"
    )
