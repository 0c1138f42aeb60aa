"""Which values an argument takes."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from meanflow.configuration.arguments import accepts


@pytest.mark.parametrize(
    ("annotation", "value", "accepted"),
    [
        (int, 3, True),
        (int, True, False),
        (float, 3, True),
        (float | None, None, True),
        (str, 3, False),
        (Literal["a", "b"], "c", False),
        (Sequence[int], [1, 2], True),
        (Any, 3, True),
        (Any, None, True),
        (object, "anything", True),
    ],
)
def test_values_of_a_type(annotation, value, accepted):
    assert accepts(annotation, value) == accepted
