"""``dataset.json``, the file of labels that the EDM2 and DMF programs write beside their images or latents."""

from __future__ import annotations

import json

FILE_NAME = "dataset.json"


def parse_labels(content: bytes, where: str) -> dict[str, int]:
    """Return the label of each file that ``{"labels": [[file, label], ...]}`` lists.

    Args:
        content: Content of the file.
        where: Name of the file in messages.

    Raises:
        ValueError: If the file is damaged, has no labels, or lists a name twice.
    """
    try:
        parsed = json.loads(content)
        pairs = parsed["labels"] if isinstance(parsed, dict) else None
    except (ValueError, KeyError) as error:
        raise ValueError(f"{where}: damaged, or without labels ({error})") from error
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int and pair[1] >= 0
        for pair in pairs
    ):
        raise ValueError(f"{where}: labels must be a list of [file, integer]")
    labels = dict(pairs)
    if len(labels) != len(pairs):
        raise ValueError(f"{where}: lists {len(pairs) - len(labels)} files more than once")
    return labels
