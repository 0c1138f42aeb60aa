"""The task ``latents``: images in, a latent store out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from datamodules.images.files import ImageFiles, PixelStore, open_image_files
from datamodules.images.listing import list_images
from datamodules.images.read_ahead import read_ahead
from datamodules.preparation.decoding import PartDataset, require_few
from datamodules.preparation.latents.encoding import Encoder, NonFiniteLatentError
from datamodules.preparation.latents.plan import Plan, Settings
from datamodules.preparation.latents.workspace import Workspace
from datamodules.preparation.lock import exclusive, run_lock
from datamodules.store.manifest import Configuration, Manifest
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
    """Encode images as a latent store, or go on with one that was begun.

    A run that is killed at any moment loses the batch that it was at. The finished store does not depend on how often
    that happened, nor on the number of worker processes or ranks.

    Args:
        source: Folder, zip file or store of pixels; see ``list_images``.
        out: Folder to be made.
        codec: What encodes.
        resolution: Height and width that images are cropped to (``crop_image``).
        normalization: How a network is to see the latents: ``scale_0_18215``, ``imf``, ``identity``, or ``None`` for
            the scaling factor of the codec.
        dtype: ``float16`` or ``float32``.
        precision: ``fp32`` or ``bf16``, of the encoder.
        flipped_copies: Encode the horizontally flipped images as well.
        num_classes: Number of classes, if the labels of a ``dataset.json`` do not show it.
        max_bad: How many images may fail to decode; they are left out.
        batch_size: Images that are decoded, encoded and kept at a time.
        shard_size: Images in a shard: what is dealt to a rank at a time.
        num_workers: Processes that decode; by default one for each core but one. 0 decodes in this process.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        rank: This process of several, if neither ``torchrun`` nor a SLURM job array says it.
        world_size: Number of processes.

    Returns:
        A sentence that says what is there.

    Raises:
        FileExistsError: If ``out`` holds something else, or another run writes it.
        FileNotFoundError: If the source or the weights of the codec are not there.
        OSError: If a file cannot be read or written; what was finished is kept.
        ValueError: If a value is not allowed, the source has no images, or too many of them are bad.
    """
    if max_bad < 0:
        raise ValueError(f"max_bad must be at least 0, got {max_bad}")
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {num_workers}")
    own = Ranks.detect(rank, world_size)
    chosen_device = own.device(device)
    files = open_image_files(source)
    settings = Settings(
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
        num_classes=1,  # until the images are listed
        class_names=(),
    )
    workspace = Workspace(Path(out))
    if Path(out).exists():
        return _finished(workspace, settings)
    workspace.make()
    with run_lock(workspace.folder, own):
        plan = _plan(workspace, settings, files)
        configuration = replace(configuration, num_classes=plan.num_classes, class_names=plan.class_names)
        encoder = Encoder(codec, configuration.row_shape, dtype, precision, flipped_copies, chosen_device)
        progress = _encode(workspace, plan, own, files, encoder, max_bad, num_workers)
        bad = workspace.bad_images(plan, range(plan.num_shards))
        require_few(bad, plan.names, max_bad)
        totals = workspace.totals(plan)
        if missing := workspace.publish(plan, configuration):
            return f"{out}: rank {own.rank} has done its part; {missing} of {plan.num_shards} shards are still to come"
    if totals["num_enlarged"]:
        progress.note(f"{totals['num_enlarged']} images are smaller than {resolution} pixels and were enlarged")
    if totals["num_rotated"]:
        progress.note(f"{totals['num_rotated']} images have an EXIF orientation, which was not applied")
    return _finished(workspace, settings)


def _encode(
    workspace: Workspace,
    plan: Plan,
    rank: Ranks,
    files: ImageFiles,
    encoder: Encoder,
    max_bad: int,
    num_workers: int | None,
) -> ImageProgress:
    shards = range(rank.rank, plan.num_shards, rank.world_size)
    total = sum(part.stop - part.start for shard in shards for part in plan.parts(shard))
    pending = workspace.pending(plan, rank)
    bad = workspace.bad_images(plan, shards)
    done = total - sum(part.stop - part.start for part in pending)
    label = "encoding" if rank.world_size == 1 else f"encoding, rank {rank.rank} of {rank.world_size}"
    progress = ImageProgress(label, total, done)
    if done:
        progress.note(f"{label}: going on after {done} of {total} images")
    channels, resolution = encoder.codec.image_channels, plan.settings["resolution"]
    dataset = PartDataset(files, plan.names, pending, resolution, channels)
    with progress.shown(), torch.no_grad():
        for part, decoded in zip(
            pending, read_ahead(dataset, num_workers, pin_memory=encoder.device.type == "cuda"), strict=True
        ):
            for number, reason in decoded.bad:
                progress.note(f"bad image {plan.names[number]}: {reason}")
            try:
                encoded = encoder(decoded)
            except NonFiniteLatentError as error:
                raise ValueError(
                    f"{plan.names[decoded.kept[error.row]]}: its latent is not finite in {plan.settings['dtype']}"
                ) from None
            workspace.add(plan, part, encoded)
            progress.advance(part.stop - part.start)
            bad += decoded.bad
            require_few(bad, plan.names, max_bad)
    return progress


def _plan(workspace: Workspace, settings: Settings, files: ImageFiles) -> Plan:
    # Of several ranks the first one lists the images, which can take minutes, and the others wait for it.
    with exclusive(workspace.folder / "plan.lock"):
        plan = workspace.find_plan(settings)
        if plan is None:
            try:
                plan = Plan.write(workspace.folder, settings, list_images(files))
            except BaseException:
                workspace.remove()
                raise
    return plan


def _require_encodable(files: ImageFiles, codec: Codec, resolution: int) -> None:
    if codec.image_channels not in (1, 3):
        raise ValueError(f"codec must take images of 1 or 3 channels, got {codec.image_channels}")
    if isinstance(files, PixelStore) and files.store.configuration.resolution != resolution:
        raise ValueError(
            f"resolution must be {files.store.configuration.resolution}, as in the store {files.path}, got {resolution}"
        )


def _finished(workspace: Workspace, settings: Settings) -> str:
    out = workspace.out
    try:
        manifest = Manifest.read(out)
    except (FileNotFoundError, ValueError) as error:
        raise FileExistsError(
            f"{out}: exists already and is no valid latent store; remove it or write elsewhere"
        ) from error
    settings.require_equal(manifest.preparation, str(out))
    workspace.remove()  # of a run that was killed between the last two steps
    bad = f"; {len(manifest.bad_images)} bad images are listed in its manifest" if manifest.bad_images else ""
    return (
        f"{out}: {manifest.num_samples} {manifest.kind} of {manifest.num_classes} classes, "
        f"{' x '.join(map(str, manifest.latent_shape))} {manifest.dtype}, normalization {manifest.normalization}{bad}"
    )
