import pytest
import torch

from meanflow.samplers import time_grid


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10])
@pytest.mark.parametrize("shift", [1.0, 1.5, 0.1, 3.3])
def test_grid_runs_from_one_to_zero(num_steps, shift):
    times = time_grid(num_steps, shift)
    assert times.dtype == torch.float64
    assert len(times) == num_steps + 1
    assert (times[0], times[-1]) == (1, 0)
    assert (times.diff() < 0).all()


def test_shift_formula():
    t = time_grid(5)
    torch.testing.assert_close(time_grid(5, 1.5), 1.5 * t / (1 + 0.5 * t), rtol=0, atol=1e-15)


def test_uniform_times_are_the_decimals_that_one_writes():
    assert time_grid(10).tolist() == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]


def test_other_ends_are_meant_before_the_shift():
    assert time_grid(4, t_start=0.9, t_end=0.1).tolist() == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1], abs=1e-15)
    t = time_grid(4, t_start=0.9, t_end=0.1)
    shifted = time_grid(4, 1.5, t_start=0.9, t_end=0.1)
    torch.testing.assert_close(shifted, 1.5 * t / (1 + 0.5 * t), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_steps must be a whole number, at least 1, got 0"),
        ((2.5,), "num_steps must be a whole number, at least 1, got 2.5"),
        ((1, 0.0), "shift must be above 0 and finite, got 0.0"),
        ((1, float("nan")), "shift must be above 0 and finite, got nan"),
        ((1, 1.0, 0.5, 0.5), "0 <= t_end < t_start <= 1, got t_start=0.5, t_end=0.5"),
        ((1, 1.0, 1.5), "0 <= t_end < t_start <= 1, got t_start=1.5, t_end=0.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        time_grid(*arguments)
