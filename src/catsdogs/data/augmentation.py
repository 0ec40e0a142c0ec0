"""Random views of images, with the transformations of Keras' `ImageDataGenerator`.

Each image gets one affine warp by OpenCV. Keras' own random layers draw from a state that depends
on the steps before, so a step's images would not follow from the seed and the step alone.
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
    """The range of each transformation; 0 switches it off."""

    width_shift: Share  # share of the width
    height_shift: Share  # share of the height
    shear: Annotated[Real, Field(ge=0, le=85)]  # degrees
    zoom: Share  # both factors are drawn from 1 - zoom to 1 + zoom
    rotation: Annotated[Real, Field(ge=0, le=180)]  # degrees
    horizontal_flip: bool
    fill_mode: Literal["nearest", "reflect", "wrap", "constant"]


def augment(
    images: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Transform each image at random.

    Args:
        images: uint8, N×height×width×3.
        augmentation: the ranges to draw from.
        rng: the only source of randomness.

    Returns:
        A new array of the same shape and type.
    """
    cv2.setNumThreads(0)  # an image is too small to be shared between threads
    height, width = images.shape[1:3]
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, BORDERS[augmentation.fill_mode]
    maps = affine_maps(len(images), height, width, augmentation, rng)
    views = np.empty_like(images)
    rgba = np.empty((height, width, 4), np.uint8)
    # OpenCV warps four channels twice as fast as three, and twice as fast again where it meets no
    # border. So each image gets its margins before the warp.
    for image, view, map_, (left, top, right, bottom) in zip(
        images, views, maps, margins(maps, height, width), strict=True
    ):
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, rgba)
        padded = cv2.copyMakeBorder(rgba, top, bottom, left, right, border)
        map_[:, 2] += left, top
        warped = cv2.warpAffine(padded, map_, (width, height), None, flags)
        cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, view)
    return views


def margins(maps: np.ndarray, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return how far each view reaches beyond its image.

    Args:
        maps: from a view's pixel to the image's, N×2×3.
        height: of the images.
        width: of the images.

    Returns:
        For each image the pixels on the left, top, right and bottom.
    """
    corners = np.array([[x, y, 1] for x in (0, width - 1) for y in (0, height - 1)])
    places = maps @ corners.T  # N×2×4
    before = -np.floor(places.min(axis=2)).astype(int)
    after = np.ceil(places.max(axis=2)).astype(int) + 1 - [width - 1, height - 1]
    return [tuple(sides) for sides in np.concatenate([before, after], axis=1).clip(0).tolist()]


def affine_maps(
    count: int, height: int, width: int, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Draw affine maps from a view's pixel (x, y) to the image's.

    As in Keras, rotation, shift, shear and zoom are composed in this order about the centre. The
    map runs from the view to the image, so a zoom above 1 shows more of the image.

    Returns:
        float64, count×2×3.
    """
    draw = rng.uniform(-1, 1, (count, 7))
    angle = np.deg2rad(augmentation.rotation) * draw[:, 0]
    shift_x = augmentation.width_shift * width * draw[:, 1]
    shift_y = augmentation.height_shift * height * draw[:, 2]
    shear = np.deg2rad(augmentation.shear) * draw[:, 3]
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
    # The grid is coarser than the last bits, in which one processor's sine differs from another's.
    return np.rint(maps * 2**16) / 2**16
