"""Images that cannot be decoded. A job leaves them out and lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class BadImage(NamedTuple):
    """An image that cannot be decoded.

    Attributes:
        number: Number of the image in the plan.
        reason: Why it cannot be decoded.
    """

    number: int
    reason: str


def record_of(bad: Iterable[BadImage], names: Sequence[str]) -> list[dict[str, str]]:
    """Return name and reason of each bad image, as a manifest or a file of statistics records them."""
    return [{"source": names[number], "reason": reason} for number, reason in bad]


def require_few(bad: Sequence[BadImage], names: Sequence[str], max_bad: int) -> None:
    """Check the number of bad images.

    Args:
        bad: The bad images.
        names: Name of each image of the plan.
        max_bad: Largest number of bad images that is allowed.

    Raises:
        ValueError: If there are more; the message names the last one.
    """
    if len(bad) > max_bad:
        number, reason = bad[-1]
        raise ValueError(
            f"{len(bad)} images cannot be decoded, max_bad is {max_bad}; the last is {names[number]} ({reason}); "
            "with a larger max_bad, the same command goes on without them"
        )
