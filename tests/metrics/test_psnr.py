import torch

from meanflow.metrics.psnr import peak_signal_to_noise_ratio


def test_closed_forms():
    black = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    images = black.clone()
    images[0] += 255  # an error of the whole range
    images[1, 0, 0] += 51  # a fifth of it in a quarter of the pixels
    expected = torch.tensor([0.0, 10 * torch.log10(torch.tensor(100.0))], dtype=torch.float64)
    torch.testing.assert_close(peak_signal_to_noise_ratio(images, black), expected, rtol=1e-6, atol=1e-9)
    assert torch.isinf(peak_signal_to_noise_ratio(black, black)).all()
