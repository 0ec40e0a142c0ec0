"""Random views of images, with the transformations of Keras' `ImageDataGenerator`.

Each image gets one affine warp by OpenCV. Keras' own random layers draw from a state that depends
on the steps before, so a step's images would not follow from the seed and the step alone.
"""

import threading
from typing import Annotated, Literal

from catsdogs.params import Real, Section, Share
from catsdogs.workers import WHOLE, Part

import cv2
import numpy as np
from pydantic import Field

BORDERS = {
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
    "constant": cv2.BORDER_CONSTANT,
}

_kept = threading.local()


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
    images: np.ndarray,
    augmentation: Augmentation,
    rng: np.random.Generator,
    out: np.ndarray | None = None,
    part: Part = WHOLE,
) -> np.ndarray:
    """Transform each image at random.

    Args:
        images: uint8, N×height×width×3.
        augmentation: the ranges to draw from.
        rng: the only source of randomness.
        out: where to write the views: contiguous, of the shape and type of `images`; may be
            `images` itself.
        part: which part of a batch they are. Each image's view is that in the whole batch.

    Returns:
        `out`, or else a new array.
    """
    cv2.setNumThreads(0)  # an image is too small to be shared between threads
    count, height, width = images.shape[:3]
    flags, border = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, BORDERS[augmentation.fill_mode]
    batch = count * part.parts
    maps = affine_maps(batch, height, width, augmentation, rng)[part.of(batch)]
    sides = margins(maps, height, width)
    maps[:, :, 2] += sides[:, :2]
    # OpenCV warps four channels twice as fast as three, and twice as fast again where it meets no
    # border. So each image gets its margins before the warp. At every call threads compete for the
    # interpreter's lock, so the channels of the whole batch change at once: it is one tall image.
    rgba = _scratch(count * height, width)
    cv2.cvtColor(images.reshape(-1, width, 3), cv2.COLOR_RGB2RGBA, rgba)
    views = rgba.reshape(count, height, width, 4)  # at first the images themselves
    rows, columns = sides[:, 1::2].sum(axis=1).max(), sides[:, ::2].sum(axis=1).max()
    buffer = np.empty((height + rows, width + columns, 4), np.uint8)
    for view, map_, (left, top, right, bottom) in zip(views, maps, sides.tolist(), strict=True):
        padded = buffer[: top + height + bottom, : left + width + right]
        cv2.copyMakeBorder(view, top, bottom, left, right, border, padded)
        cv2.warpAffine(padded, map_, (width, height), view, flags)
    out = np.empty_like(images) if out is None else out
    cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB, out.reshape(-1, width, 3))
    return out


def _scratch(height: int, width: int) -> np.ndarray:
    """Return memory that this thread keeps: to get it anew costs as much as the warps."""
    image = getattr(_kept, "image", None)
    if image is None or image.shape[:2] != (height, width):
        image = _kept.image = np.empty((height, width, 4), np.uint8)
    return image


def margins(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return how far each view reaches beyond its image.

    Args:
        maps: from a view's pixel to the image's, N×2×3.
        height: of the images.
        width: of the images.

    Returns:
        For each image the pixels on the left, top, right and bottom: int64, N×4.
    """
    corners = np.array([[x, y, 1] for x in (0, width - 1) for y in (0, height - 1)])
    places = maps @ corners.T  # N×2×4
    before = -np.floor(places.min(axis=2)).astype(np.int64)
    after = np.ceil(places.max(axis=2)).astype(np.int64) + 1 - [width - 1, height - 1]
    return np.concatenate([before, after], axis=1).clip(0)


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
