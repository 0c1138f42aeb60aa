import torch

from meanflow.codecs import round_half_up_to_uint8, round_to_uint8, truncate_to_uint8


def gray(level: float) -> float:
    return 2 * level / 255 - 1


def test_between_two_levels():
    x = torch.tensor([gray(10.25), gray(10.75), gray(254.75)])
    assert round_to_uint8(x).tolist() == round_half_up_to_uint8(x).tolist() == [10, 11, 255]
    assert truncate_to_uint8(x).tolist() == [10, 10, 254]


def test_ends_and_beyond():
    x = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0])
    assert round_to_uint8(x).tolist() == [0, 0, 128, 255, 255]  # 127.5 rounds to even
    assert round_half_up_to_uint8(x).tolist() == [0, 0, 128, 255, 255]
    assert truncate_to_uint8(x).tolist() == [0, 0, 127, 255, 255]
    for quantize in (round_to_uint8, round_half_up_to_uint8, truncate_to_uint8):
        assert quantize(x).dtype == torch.uint8


def test_ways_of_rounding_differ_at_ties():
    x = 2 * torch.tensor([126.5, 127.5]) / 255 - 1
    assert round_to_uint8(x).tolist() == [126, 128]
    assert round_half_up_to_uint8(x).tolist() == [127, 128]


def test_half_precision_is_widened_first():
    x = torch.tensor([0.5], dtype=torch.bfloat16)
    assert round_to_uint8(x).tolist() == [191]
    assert truncate_to_uint8(x).tolist() == [191]
    assert round_half_up_to_uint8(x).tolist() == [191]
