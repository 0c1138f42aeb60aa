"""DINOv2's architecture in its smallest size, with random weights."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from meanflow.metrics.features import DINOv2Features, dinov2
from meanflow.metrics.features.dinov2 import resample_position_embedding

MODEL = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(MODEL, num_classes=0)
        for block in network.blocks:  # at their initial 1e-5 no block would change anything
            torch.nn.init.normal_(block.ls1.gamma)
            torch.nn.init.normal_(block.ls2.gamma)
    return network.state_dict()


@pytest.fixture(scope="module")
def extractor(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("dinov2") / "random.pth"
    torch.save(weights, path)
    extractor = DINOv2Features(path, model=MODEL)
    state = torch.get_rng_state()
    extractor.prepare()
    assert torch.equal(torch.get_rng_state(), state)
    return extractor


def cubic(x, a=-0.75):
    """Keys' kernel with torch's parameter."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def resampling_matrix(old, new, offset):
    """Weights ``(new, old)`` of bicubic interpolation by ``(new + offset) / old``; the border is repeated."""
    matrix = np.zeros((new, old))
    for i in range(new):
        position = (i + 0.5) * old / (new + offset) - 0.5
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            matrix[i, min(max(tap, 0), old - 1)] += cubic(position - tap)
    return torch.from_numpy(matrix)


def test_the_position_embedding_is_resampled_by_the_official_formula():
    embedding = torch.randn(1, 1 + 37**2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = resample_position_embedding(embedding, 16)
    assert found.shape == (1, 257, 5)
    assert torch.equal(found[:, 0], embedding[:, 0])
    grid = embedding[0, 1:].reshape(37, 37, 5)

    def expected(offset):
        rows = resampling_matrix(37, 16, offset)
        return torch.einsum("ih,jw,hwd->ijd", rows, rows, grid).reshape(256, 5)

    torch.testing.assert_close(found[0, 1:], expected(offset=0.1), rtol=0, atol=1e-12)
    assert (found[0, 1:] - expected(offset=0.0)).abs().max() > 0.1
    assert resample_position_embedding(embedding, 37) is embedding


def test_features_are_the_class_token_after_the_last_norm(extractor, weights, images):
    """The same in timm's own model, which is handed the resampled embedding."""
    network = timm.create_model(MODEL, num_classes=0, img_size=224).eval()
    network.load_state_dict(weights | {"pos_embed": resample_position_embedding(weights["pos_embed"], 16)})
    with torch.no_grad():
        tokens = network.forward_features(extractor.preprocess(images))
    features = extractor(images)
    assert features.pooled.shape == (2, 384)
    assert features.spatial is None
    assert features.logits is None
    torch.testing.assert_close(features.pooled, tokens[:, 0])
    assert features.pooled.std(dim=0).mean() > 1e-2  # the images are different
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images).pooled, features.pooled)


def test_pixels_are_resized_with_antialiasing_and_standardized(extractor):
    """Alternating columns of black and white, halved, are gray to the eye and overshoot nowhere."""
    stripes = torch.zeros(1, 3, 448, 448, dtype=torch.uint8)
    stripes[..., ::2] = 255
    inside = extractor.preprocess(stripes)[0, :, 100, 100]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(inside, (0.5 - mean) / std, rtol=0, atol=0.01)
    image = torch.arange(224 * 224 * 3).reshape(1, 3, 224, 224).remainder(256).to(torch.uint8)
    expected = (image[0, :, 5, 6] / 255 - mean) / std
    torch.testing.assert_close(extractor.preprocess(image)[0, :, 5, 6], expected, rtol=0, atol=1e-5)


def test_values_beyond_the_range_are_not_clamped(extractor):
    """As in the EDM2 program: bicubic interpolation overshoots at edges."""
    edge = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    edge[..., 16:] = 255
    assert extractor.preprocess(edge)[0, 0].max() > (1.01 - 0.485) / 0.229
    assert extractor.preprocess(edge)[0, 0].min() < (-0.01 - 0.485) / 0.229


def test_official_names_and_safetensors_open(extractor, weights, images, tmp_path):
    save_file(weights | {"mask_token": torch.zeros(1, 384)}, tmp_path / "official.safetensors")
    assert torch.equal(
        DINOv2Features(tmp_path / "official.safetensors", MODEL)(images).pooled, extractor(images).pooled
    )


def test_code_in_a_weights_file_is_refused_and_does_not_run(malicious_weights):
    path, marker = malicious_weights
    with pytest.raises(ValueError, match=r"malicious\.pth is refused: it holds (posix|nt)\.system"):
        DINOv2Features(path, MODEL).prepare()
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": None}, r"it has no position embedding 'pos_embed'"),
        ({"pos_embed": torch.zeros(1, 8, 384)}, r"pos_embed \(1, 8, 384\) is not that of a class token and a square"),
        ({"norm.weight": None}, r".*Missing key\(s\) in state_dict: \"norm.weight\""),
        ({"cls_token": torch.zeros(1, 1, 385)}, ".*size mismatch for cls_token"),
    ],
)
def test_a_file_of_something_else_is_named(weights, tmp_path, change, message):
    changed = {key: value for key, value in (weights | change).items() if value is not None}
    save_file(changed, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=rf"other\.safetensors does not hold the weights of .*'dinov2': {message}"):
        DINOv2Features(tmp_path / "other.safetensors", MODEL).prepare()


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "damaged.safetensors").write_bytes(b"12345678{")
    with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged"):
        DINOv2Features(tmp_path / "damaged.safetensors", MODEL).prepare()


def test_published_weights_are_those_of_the_large_model_on_the_hub(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(dinov2, "local_file", lambda *arguments: asked.append(arguments) or tmp_path)
    assert DINOv2Features().weights_file == tmp_path
    assert asked == [("hf://timm/vit_large_patch14_dinov2.lvd142m/model.safetensors",)]


def test_the_large_model_has_1024_features():
    with torch.device("meta"):
        network = timm.create_model(DINOv2Features().model, num_classes=0, img_size=224)
    assert network.num_features == 1024
    assert network.patch_embed.grid_size == (16, 16)
