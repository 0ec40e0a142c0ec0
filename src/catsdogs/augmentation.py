"""Random views of images: a batch and a generator go in, the batch seen otherwise comes out.

The transformations are those of Keras' `ImageDataGenerator`, as one affine warp per image.
"""

from typing import Annotated, Literal

from catsdogs.params import Real, Section, Share

import cv2
import numpy as np
from pydantic import Field

BORDERS = {
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}


class Augmentation(Section):
    """How far each transformation goes; 0 switches it off."""

    width_shift: Share  # share of the width
    height_shift: Share  # share of the height
    shear: Annotated[Real, Field(ge=0, le=1.5)]  # radians
    zoom: Share  # both factors are drawn from 1 - zoom to 1 + zoom
    rotation: Annotated[Real, Field(ge=0, le=180)]  # degrees
    horizontal_flip: bool
    fill_mode: Literal["nearest", "reflect", "wrap", "constant"]


def augment(
    images: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Give each image a view of its own.

    Args:
        images: uint8, N×height×width×3.
        augmentation: the ranges to draw from.
        rng: all that the result depends on besides.

    Returns:
        A new array like `images`.
    """
    cv2.setNumThreads(0)  # an image is too small to be shared between threads
    views = np.empty_like(images)
    border = BORDERS[augmentation.fill_mode]
    height, width = images.shape[1:3]
    for image, view, matrix in zip(
        images, views, matrices(len(images), height, width, augmentation, rng), strict=True
    ):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(image, matrix, (width, height), view, flags, border)
    return views


def matrices(
    count: int, height: int, width: int, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Draw affine maps from a view's pixel (x, y) to the image's.

    As in Keras, rotation, shift, shear and zoom are composed in this order about the centre, and
    the map runs from the view to the image, so a zoom above 1 shows more of the image.

    Returns:
        float64, count×2×3.
    """
    draw = rng.uniform(-1, 1, (count, 7))
    angle = np.deg2rad(augmentation.rotation) * draw[:, 0]
    shift_x = augmentation.width_shift * width * draw[:, 1]
    shift_y = augmentation.height_shift * height * draw[:, 2]
    shear = augmentation.shear * draw[:, 3]
    zoom_x = 1 + augmentation.zoom * draw[:, 4]
    zoom_y = 1 + augmentation.zoom * draw[:, 5]
    mirror = np.where(augmentation.horizontal_flip & (draw[:, 6] > 0), -1.0, 1.0)

    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.empty((count, 2, 2))  # rotation @ shear @ zoom
    linear[:, 0, 0] = cos * zoom_x * mirror
    linear[:, 0, 1] = -(cos * np.sin(shear) + sin * np.cos(shear)) * zoom_y
    linear[:, 1, 0] = sin * zoom_x * mirror
    linear[:, 1, 1] = (cos * np.cos(shear) - sin * np.sin(shear)) * zoom_y
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = np.stack([cos * shift_x - sin * shift_y, sin * shift_x + cos * shift_y], axis=1)
    offset = centre + shift - linear @ centre
    maps = np.concatenate([linear, offset[:, :, None]], axis=2)
    # A coarser grid than the last bits, in which one processor's sine differs from another's.
    return np.rint(maps * 2**16) / 2**16
