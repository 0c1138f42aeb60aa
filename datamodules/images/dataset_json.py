"""``dataset.json``, the file of labels that the EDM2 and DMF programs write beside their images or latents."""

from __future__ import annotations

import json

from meanflow.files.inside import require_relative

FILE_NAME = "dataset.json"
LABELS = 2**31


def parse_labels(content: bytes, where: str) -> dict[str, int] | None:
    """Return the label of each file that ``{"labels": [[file, label], ...]}`` lists.

    Args:
        content: Content of the file.
        where: Name of the file in messages.

    Returns:
        The labels by name; ``None`` for ``{"labels": null}``, which stands for data without labels.

    Raises:
        ValueError: If the file is damaged, has labels that are no integers, lists a name twice, or names a file outside
            of its folder.
    """
    try:
        parsed = json.loads(content)
        pairs = parsed["labels"] if isinstance(parsed, dict) else ()
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{where}: damaged, or without labels ({error})") from error
    if pairs is None:
        return None
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise ValueError(f"{where}: labels must be a list of [file, integer]")
    labels = dict(pairs)
    if len(labels) != len(pairs):
        raise ValueError(f"{where}: lists {len(pairs) - len(labels)} files more than once")
    for name in labels:
        require_relative(name, where)
    return labels


def _is_pair(pair: object) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    name, label = pair
    return isinstance(name, str) and type(label) is int and 0 <= label < LABELS
