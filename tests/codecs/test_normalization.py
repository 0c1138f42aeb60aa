import math

import pytest
import torch

from meanflow.codecs.normalization import IMF, SCALE_0_18215, Normalization, identity, named, require_equal


def test_the_two_conventions_of_the_field_on_one_latent():
    # Posterior mean 2.0, standard deviation 0.5, noise 1.0, channel 0.
    mean, std = torch.full((1, 4, 1, 1), 2.0), torch.full((1, 4, 1, 1), 0.5)
    for normalization, expected in ((IMF, (2.5 - 0.86488) / 4.85503674), (SCALE_0_18215, 2.5 * 0.18215)):
        sample = normalization.normalize(mean) + normalization.normalize_std(std)
        assert math.isclose(sample[0, 0, 0, 0].item(), expected, rel_tol=1e-6)
        torch.testing.assert_close(normalization.denormalize(sample), mean + std)


def test_round_trips():
    z = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(IMF.denormalize(IMF.normalize(z)), z, rtol=1e-14, atol=1e-14)
    assert torch.equal(identity(4).normalize(z), z)
    for normalization in (IMF, SCALE_0_18215, identity(1)):
        assert Normalization.from_dict(normalization.to_dict()) == normalization


def test_names():
    assert named("imf") is IMF
    assert str(SCALE_0_18215) == "scale_0_18215"
    assert str(identity(3)) == "identity (3 channels)"
    with pytest.raises(ValueError, match=r"must be one of \['imf', 'scale_0_18215'\], got 'IMF'"):
        named("IMF")


def test_a_mismatch_names_both_sides():
    require_equal(IMF, IMF, "store")
    with pytest.raises(
        ValueError, match=r"^data/x: the store is normalized for scale_0_18215, the network expects imf$"
    ):
        require_equal(SCALE_0_18215, IMF, "data/x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"shift": [0.0]}, "keys shift and scale"),
        ({"shift": [0.0], "scale": "1"}, "scale must be a list of numbers"),
        ({"shift": [0.0], "scale": [1.0, 1.0]}, "one number per channel, got 1 and 2"),
        ({"shift": [0.0], "scale": [0.0]}, "scale must be positive"),
        ({"shift": [math.nan], "scale": [1.0]}, "shift must be finite"),
    ],
)
def test_bad_values_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        Normalization.from_dict(config)


def test_channels_are_checked():
    with pytest.raises(ValueError, match=r"must have 4 channels, got the shape \(2, 3, 8, 8\)"):
        IMF.normalize(torch.zeros(2, 3, 8, 8))
