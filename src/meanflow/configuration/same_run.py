"""Decides whether a run that is to go on was started with the same settings.

Settings are compared by meaning. The class counts and not the module that it lives in, a key that was renamed counts
under its present name, and a key that is absent counts as the default of the constructor. Nothing that a file names is
imported or built: defaults come from the classes of the present configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from meanflow.configuration.arguments import constructor_default

# Settings that change how something is computed, and not the result.
RUNTIME_SETTINGS = ("attention", "activation_checkpointing", "fused")
# Groups that are compared as a whole, and keys of other groups. Not compared are the sampler, places, the length of the
# run and the number of processes. The data module compares the store with the network.
COMPARED_GROUPS = ("network", "objective", "optimizer", "schedule")
COMPARED_KEYS = (
    "seed",
    "datamodule.batch_size",
    "datamodule.horizontal_flip",
    "module.representation",
    "callbacks.ema.decay",
    "trainer.precision",
    "trainer.gradient_clip_val",
    "trainer.accumulate_grad_batches",
)


class Rename(NamedTuple):
    """A key that has another name now.

    Attributes:
        since: Version that the present name appeared in.
        old: Dotted key in older files. It stands for all keys below it as well.
        new: Dotted key in present files.
    """

    since: str
    old: str
    new: str


RENAMES = (
    Rename("0.2.0", "objective.path", "objective.interpolant"),
    Rename("0.2.0", "objective.weight", "objective.weighting"),
    Rename("0.2.0", "objective.prob_drop_label", "objective.label_drop.prob_drop_label"),
)
# Since 0.2.0: two ends of an interval are one pair.
INTERVALS = ("objective.guidance",)
# Since 0.2.0: an object took the place of a number; these are the classes that the number stood for.
IMPLIED_CLASSES = {"objective.label_drop": "IndependentLabelDrop"}


def require_same_settings(saved: Mapping[str, object], present: Mapping[str, object], run: str) -> None:
    """Check that a run to go on with was started with the present settings.

    Args:
        saved: Plain values of the configuration that the run was started with.
        present: Plain values of the present configuration.
        run: Name of the run for the message.

    Raises:
        ValueError: If a setting differs that the result depends on; all of them are listed.
    """
    before, now = (present_names(flat(_compared(tree))) for tree in (saved, present))
    listed = [
        f"{key} is {old!r} there and {new!r} here"
        for key, old, new in differences(before, now, lambda key: _default(present, key))
    ]
    if listed:
        raise ValueError(
            f"{run} is a run with other settings: {'; '.join(listed)}. It goes on with its own; "
            "resume=null starts anew, name=... starts another run"
        )


def differences(
    before: Mapping[str, object], now: Mapping[str, object], default: Callable[[str], object]
) -> list[tuple[str, object, object]]:
    """Return the settings that differ, as (key, earlier value, present value).

    Args:
        before: Earlier settings by dotted key.
        now: Present settings.
        default: Returns the value of a key that one side lacks.
    """
    found = []
    keys = sorted(key for key in before.keys() | now.keys() if key.rpartition(".")[2] not in RUNTIME_SETTINGS)
    other_classes: list[str] = []
    for key in sorted(keys, key=lambda key: not key.endswith("_target_")):
        node = key.rpartition(".")[0]
        one_sided = key not in before or key not in now
        if one_sided and any(node == cls or node.startswith(f"{cls}.") for cls in other_classes):
            continue  # a key of another class is no difference of its own
        old, new = (side[key] if key in side else default(key) for side in (before, now))
        if _plain(old) != _plain(new):
            found.append((key, old, new))
            if key.endswith("_target_"):
                other_classes.append(node)
    return sorted(found)


def present_names(settings: Mapping[str, object]) -> dict[str, object]:
    """Return settings by dotted key under the names and in the form of the present version."""
    renamed = {}
    for key, value in settings.items():
        for rename in RENAMES:
            if key == rename.old or key.startswith(f"{rename.old}."):
                key = rename.new + key.removeprefix(rename.old)
        renamed[key] = class_name(str(value)) if key.endswith("_target_") else value
    for node, name in IMPLIED_CLASSES.items():
        if any(key.startswith(f"{node}.") for key in renamed):
            renamed.setdefault(f"{node}._target_", name)
    for node in INTERVALS:
        ends = f"{node}.t_min", f"{node}.t_max"
        if any(end in renamed for end in ends):
            renamed[f"{node}.interval"] = [renamed.pop(end, side) for end, side in zip(ends, (0.0, 1.0), strict=True)]
    return renamed


def class_name(target: str) -> str:
    """Return a dotted path without its modules: ``SiT.from_size`` for ``meanflow.models.SiT.from_size``."""
    parts = target.split(".")
    first = next((i for i, part in enumerate(parts) if part[:1].isupper()), len(parts) - 1)
    return ".".join(parts[first:])


def flat(tree: object, prefix: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings by dotted key."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        key: value
        for name, branch in tree.items()
        for key, value in flat(branch, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _compared(tree: Mapping[str, object]) -> dict[str, object]:
    return {key: _select(tree, key) for key in (*COMPARED_GROUPS, *COMPARED_KEYS)}


def _select(tree: object, key: str) -> object:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return tree


def _default(present: Mapping[str, object], key: str) -> object:
    """Return the default of the constructor that takes a key in the present configuration; ``None`` without one."""
    node, _, name = key.rpartition(".")
    target = _select(present, f"{node}._target_")
    return constructor_default(target, name) if isinstance(target, str) else None


def _plain(value: object) -> object:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
