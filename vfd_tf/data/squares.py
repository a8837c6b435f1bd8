"""Images of any size -> squares of one, the transform that large images are evaluated in.

`image_size` S asks for squares of S pixels. Every image is resized so that its shorter side
is R = round(S / 0.875), and its central R x R square is held. An evaluation takes the
central S x S pixels of it, training an S x S crop.
"""

import numpy as np

SHARE = 0.875  # of the square that is held, the side of the one that is evaluated


def side_of(image_size: int) -> int:
    """Side R of the squares that are held for images of this size."""
    return round(image_size / SHARE)


def square(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [h, w, 1 or 3], resized to the shorter side and cropped: [side, side, c].

    Bilinear with antialiasing, in the integer arithmetic of Pillow: the same bits on every
    machine. The longer side is rounded, the offset of the crop rounded down. Only the part
    that the crop shows is computed.
    """
    from PIL import Image

    height, width = image.shape[:2]
    short = min(height, width)
    size = round(width * side / short), round(height * side / short)
    first = [(length - side) // 2 for length in size]
    scale = width / size[0], height / size[1]
    box = [place * by for place, by in zip(first, scale, strict=True)]
    box += [(place + side) * by for place, by in zip(first, scale, strict=True)]
    box[2:] = map(min, box[2:], (width, height))  # rounding may lead out of the image
    plain = image[..., 0] if image.shape[-1] == 1 else image
    how = Image.Resampling.BILINEAR
    pixels = Image.fromarray(plain).resize((side, side), how, box=box)
    return np.asarray(pixels).reshape(side, side, image.shape[-1])
