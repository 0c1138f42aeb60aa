import pytest

from meanflow.attention import BACKENDS, get_attention, reference_attention, sdpa_attention


def test_backends_are_found_by_name():
    assert get_attention("reference") is reference_attention
    assert get_attention("sdpa") is sdpa_attention


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"attention must be one of .*'reference', 'sdpa'.*, got 'flash9'"):
        get_attention("flash9")
    assert {"reference", "sdpa"} <= BACKENDS.keys()
