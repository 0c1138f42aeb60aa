"""The centre crop of ADM (Dhariwal and Nichol, 2021), which every ImageNet result in this field uses."""

from __future__ import annotations

from PIL import Image


def center_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Return the centre of an image at ``resolution`` x ``resolution`` pixels.

    The short side is halved with a box filter while it is at least twice ``resolution``, then brought to ``resolution``
    with a bicubic one; then the centre is cut out.
    """
    while min(image.size) >= 2 * resolution:
        width, height = image.size
        image = image.resize((width // 2, height // 2), resample=Image.Resampling.BOX)
    factor = resolution / min(image.size)
    width, height = (round(side * factor) for side in image.size)
    image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))
