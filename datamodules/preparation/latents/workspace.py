"""The folder in which a store grows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.preparation.bad_images import BadImage, record_of
from datamodules.preparation.latents.encoding import EncodedPart
from datamodules.preparation.latents.plan import LatentPlan, Part
from datamodules.preparation.lock import exclusive, suppress_if_published
from datamodules.preparation.workspace import Workspace
from datamodules.store.array_file import write_array
from datamodules.store.file_entry import FileEntry
from datamodules.store.manifest import Configuration, Manifest
from datamodules.store.source_paths import write_paths
from meanflow.distributed import Ranks
from meanflow.files.atomic import atomic_file


class ShardSummary(NamedTuple):
    """A complete shard.

    Attributes:
        shard: Entry of the shard's file; ``None`` if none of its images could be decoded.
        flipped_shard: Entry of the file of flipped copies; ``None`` if there is no such file.
        kept: Number of each encoded image in the plan.
        bad: Images of the shard that could not be decoded.
        num_enlarged: How many images are smaller than the crop.
        num_rotated: How many images have an EXIF orientation.
    """

    shard: FileEntry | None
    flipped_shard: FileEntry | None
    kept: list[int]
    bad: list[BadImage]
    num_enlarged: int
    num_rotated: int


class LatentWorkspace(Workspace[LatentPlan]):
    """A hidden folder beside the store: the plan, encoded parts and complete shards.

    When the last shard is complete, ``publish`` writes the manifest and gives the store its name.

    Args:
        out: Folder of the store.
    """

    def __init__(self, out: Path) -> None:
        super().__init__(out, out.with_name(f".{out.name}.partial"), LatentPlan)
        self.parts = self.folder / "parts"
        self.summaries = self.folder / "summaries"
        self.store = self.folder / "store"

    def make(self) -> None:
        """Make the folders unless they exist."""
        for folder in (self.parts, self.summaries, self.store):
            folder.mkdir(parents=True, exist_ok=True)

    def pending(self, plan: LatentPlan, ranks: Ranks) -> list[Part]:
        """Return the parts that a rank has not encoded yet. Of n ranks, rank r encodes every n-th shard from r on."""
        shards = [shard for shard in ranks.own(plan.num_shards) if not self._summary(shard).exists()]
        for shard in shards:
            self._complete_shard(plan, shard)  # an earlier run may have been killed between the last part and this
        return [
            part
            for shard in shards
            if not self._summary(shard).exists()
            for part in plan.parts(shard)
            if not (self.parts / part.name).exists()
        ]

    def add(self, plan: LatentPlan, part: Part, encoded: EncodedPart) -> None:
        """Keep an encoded part. The last part of a shard completes the shard.

        Raises:
            OSError: If the disk is full. All earlier parts are kept.
        """
        encoded.write(self.parts / part.name)
        self._complete_shard(plan, part.shard)

    def bad_images(self, plan: LatentPlan, shards: Iterable[int]) -> list[BadImage]:
        """Return the bad images that are known so far in some shards."""
        bad: list[BadImage] = []
        for shard in shards:
            if self._summary(shard).exists():
                bad += self._read_summary(shard).bad
            else:
                paths = [self.parts / part.name for part in plan.parts(shard)]
                bad += [entry for path in paths if path.exists() for entry in EncodedPart.read(path).bad]
        return bad

    def publish(self, plan: LatentPlan, configuration: Configuration) -> int:
        """Write the manifest and give the store its name, if all shards are complete.

        Returns:
            Number of missing shards; 0 if the store exists.

        Raises:
            ValueError: If none of the images can be decoded.
            OSError: If the disk is full.
        """
        missing = 0
        with suppress_if_published(self.out), exclusive(self.folder / "publish.lock"):
            if self.out.exists():  # another rank was faster
                return 0
            missing = sum(not self._summary(shard).exists() for shard in range(plan.num_shards))
            if not missing:
                self._write_manifest(plan, configuration)
                os.rename(self.store, self.out)
        if not missing:
            self.remove()
        return missing

    def totals(self, plan: LatentPlan) -> dict[str, int]:
        """Return how many images of complete shards were enlarged, and how many have an EXIF orientation."""
        summaries = [self._read_summary(shard) for shard in range(plan.num_shards) if self._summary(shard).exists()]
        return {key: sum(getattr(summary, key) for summary in summaries) for key in ("num_enlarged", "num_rotated")}

    def _summary(self, shard: int) -> Path:
        return self.summaries / f"{shard:05d}.json"

    def _read_summary(self, shard: int) -> ShardSummary:
        content: dict[str, Any] = json.loads(self._summary(shard).read_text(encoding="utf-8"))
        for key in ("shard", "flipped_shard"):
            content[key] = None if content[key] is None else FileEntry.from_dict(key, content[key])
        content["bad"] = [BadImage(*entry) for entry in content["bad"]]
        return ShardSummary(**content)

    def _complete_shard(self, plan: LatentPlan, shard: int) -> None:
        paths = [self.parts / part.name for part in plan.parts(shard)]
        if not all(path.exists() for path in paths):
            return
        parts = [EncodedPart.read(path) for path in paths]
        flipped = [part.flipped_rows for part in parts if part.flipped_rows is not None]
        summary = ShardSummary(
            self._write_rows(f"shard-{shard:05d}.npy", [part.rows for part in parts]),
            self._write_rows(f"flipped-{shard:05d}.npy", flipped) if flipped else None,
            [number for part in parts for number in part.kept],
            [bad for part in parts for bad in part.bad],
            sum(part.num_enlarged for part in parts),
            sum(part.num_rotated for part in parts),
        )
        entries = {
            key: None if (entry := getattr(summary, key)) is None else asdict(entry)
            for key in ("shard", "flipped_shard")
        }
        with atomic_file(self._summary(shard)) as file:
            file.write(json.dumps(summary._asdict() | entries).encode())
        for path in paths:
            path.unlink()

    def _write_rows(self, name: str, rows: Sequence[torch.Tensor]) -> FileEntry | None:
        array = torch.cat(list(rows)).numpy()
        return write_array(self.store / name, array) if len(array) else None

    def _write_manifest(self, plan: LatentPlan, configuration: Configuration) -> None:
        summaries = [self._read_summary(shard) for shard in range(plan.num_shards)]
        kept = np.array([number for summary in summaries for number in summary.kept], dtype=np.int64)
        if not len(kept):
            number, reason = summaries[0].bad[0]
            raise ValueError(
                f"{plan.settings['source']}: none of its {len(plan)} images can be decoded; the first is "
                f"{plan.names[number]} ({reason})"
            )
        sources, source_ends = write_paths(self.store, (plan.names[number] for number in kept.tolist()))
        Manifest(
            **{key: getattr(configuration, key) for key in Configuration.__dataclass_fields__},
            num_samples=len(kept),
            shards=tuple(summary.shard for summary in summaries if summary.shard is not None),
            flipped_shards=tuple(summary.flipped_shard for summary in summaries if summary.flipped_shard is not None),
            labels=write_array(self.store / "labels.npy", plan.labels[kept]),
            sources=sources,
            source_ends=source_ends,
            image_root=plan.settings["source"],
            bad_images=tuple(record_of((bad for summary in summaries for bad in summary.bad), plan.names)),
            preparation=plan.settings,
            notes=tuple(plan.notes),
        ).write(self.store)
