import math

import pytest
import torch

from meanflow.interpolant import CosinePath, LinearPath, expand_times
from tests.duals import assert_equal_to_rounding, central_difference, jvp, normal

PATHS = [LinearPath(), CosinePath()]
X, E = normal(5, 3, 2, 2), normal(5, 3, 2, 2, seed=1)
T = torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)


def test_linear_path():
    t = T[:, None, None, None]
    assert_equal_to_rounding(LinearPath().state(X, E, T), (1 - t) * X + t * E, relative=1e-15)
    assert_equal_to_rounding(LinearPath().velocity(X, E, T), E - X, relative=1e-15)


def test_cosine_path_is_variance_preserving():
    path = CosinePath()
    half = torch.tensor([1 / 3], dtype=torch.float64)
    assert path.alpha(half).item() == pytest.approx(math.sqrt(3) / 2, abs=1e-15)
    assert path.sigma(half).item() == pytest.approx(1 / 2, abs=1e-15)
    assert path.d_alpha(half).item() == pytest.approx(-math.pi / 4, abs=1e-15)
    assert path.d_sigma(half).item() == pytest.approx(math.pi / 2 * math.sqrt(3) / 2, abs=1e-15)
    torch.testing.assert_close(path.alpha(T) ** 2 + path.sigma(T) ** 2, torch.ones_like(T), rtol=0, atol=1e-15)


@pytest.mark.parametrize("path", PATHS)
def test_data_at_zero_and_noise_at_one(path):
    ones = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(path.state(X, E, 0 * ones), X, rtol=0, atol=1e-15)
    torch.testing.assert_close(path.state(X, E, ones), E, rtol=0, atol=1e-15)


@pytest.mark.parametrize("path", PATHS)
def test_velocity_is_the_derivative_of_the_state(path):
    _, derivative = jvp(lambda t: path.state(X, E, t), [T], [torch.ones_like(T)])
    assert_equal_to_rounding(path.velocity(X, E, T), derivative, relative=1e-14)
    difference = central_difference(lambda t: path.state(X, E, t), [T], [torch.ones_like(T)])
    assert_equal_to_rounding(path.velocity(X, E, T), difference, relative=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_states_of_any_shape(path):
    for shape in ((5,), (5, 4), (5, 1, 2, 3, 4)):
        x = normal(*shape)
        assert path.state(x, x, T).shape == path.velocity(x, x, T).shape == shape
    assert expand_times(T, X).shape == (5, 1, 1, 1)
