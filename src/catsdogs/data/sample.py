"""The sample: cats and dogs drawn from a seed, the same bytes on every machine.

It stands in for the photographs while the pipeline is rehearsed. Cats and dogs share poses, sizes,
light, furs and places, but each kind has its usual furs and places, so colours say a lot: a random
forest on histograms of 216 colours has an accuracy of 0.86. The rest is in ears, muzzles, noses,
eyes, whiskers and tails.

The last bits of a sine differ between processors. Corners and pixels are therefore rounded.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

Colour = tuple[int, ...]  # red, green and blue, 0 to 255
Outline = NDArray[np.complex128]  # the corners of a shape, x + iy, with y pointing down

OVERSAMPLING = 2  # images are drawn this much larger and then reduced, for smooth edges
USUAL = {"cat": (0.76, 0.24), "dog": (0.24, 0.76)}  # how often with furs and places of cats, dogs
FURS = {
    "cat": ((120, 118, 122), (52, 48, 50), (150, 142, 132), (236, 232, 226)),
    "dog": ((214, 140, 70), (122, 84, 54), (222, 196, 156), (168, 112, 66)),
}
PLACES = {  # cats are usually indoors, dogs outdoors
    "cat": ((196, 178, 150), (168, 96, 88), (206, 204, 198), (92, 84, 96), (150, 120, 160)),
    "dog": ((96, 140, 70), (126, 154, 186), (150, 178, 84), (70, 104, 112), (110, 160, 96)),
}
IRISES = {"cat": ((150, 190, 80), (220, 180, 60), (110, 170, 200)), "dog": ((72, 44, 26),)}
POSES = {  # where the tail, the markings and the head are, and the size of the head
    "portrait": (-0.8 + 1.5j, 1.4j, 0j, 1.1),
    "sitting": (-0.5 + 1.25j, 0.85j, -0.2j, 0.71),
    "standing": (-0.95 + 0.25j, -0.15 + 0.5j, 0.85 - 0.1j, 0.59),
}
# One shape a line: its part, colour, centre (x, y), half width and height, turn in radians
# (clockwise) and number of corners. A shape with x above 0 has a twin on the other side.
SHAPES = """
portrait   dark    0   1.25   .9   .95   0   24
sitting    fur     0    .85   .6   .85   0   24
sitting    light   0    .75   .3   .5    0   24
sitting    dark   .42  1.45   .3   .22   0   24
sitting    fur    .18  1.2    .13  .48   0   24
standing   dark   .55  1      .12  .5    0   24
standing   dark   .82  1      .12  .5    0   24
standing   fur     0    .5   1.05  .48   0   24
stripes    dark    0   -.16   .035 .16   0   24
patches    light   0   -.03   .13  .1    0   24
dogtail    fur   -.2   -.1    .22  .5  -.9    3
catears    fur    .55  -.64   .44  .52  .35   3
catears    pink   .56  -.64   .27  .36  .35   3
cathead    fur     0    0     .95  .8    0   24
tabby      dark    0   -.56   .04  .17   0   24
tabby      dark   .19  -.55   .04  .16  .2   24
catface    black  .38  -.1    .2   .165 -.2  24
catface    iris   .38  -.1    .17  .14  -.2  24
catface    black  .38  -.1    .06  .13   0   24
catface    white  .41  -.16   .03  .03   0   24
catface    light  .14   .36   .2   .16   0   24
catface    pink    0    .24   .12  .08  3.14  3
catface    lips    0    .36   .016 .07   0   24
catface    lips   .07   .45   .09  .018 .5   24
catface    hair   .6    .25   .02  .5   1.3   3
catface    hair   .6    .35   .02  .5   1.57  3
catface    hair   .6    .45   .02  .5   1.84  3
doghead    fur     0   -.05   .68  .88   0   24
pricked    fur    .45  -.7    .36  .48  .3    3
folded     ear    .62  -.66   .42  .42  2.4   3
hanging    ear    .76   .06   .24  .6  -.16  24
patch      light -.3   -.25   .27  .32   0   24
dogface    light   0    .48   .43  .47   0   24
dogface    white  .29  -.2    .115 .115  0   24
dogface    iris   .29  -.19   .1   .1    0   24
dogface    black  .29  -.19   .055 .055  0   24
dogface    white  .27  -.23   .025 .025  0   24
tongue     pink    0    .98   .15  .26   0   24
snout      lips    0    .74   .27  .09   0   24
snout      light   0    .66   .27  .09   0   24
snout      lips    0    .5    .018 .18   0   24
snout      black   0    .26   .2   .14   0   24
snout      hair  -.06   .21   .05  .03   0   24
"""


def sample(count: int, seed: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield name and drawer of `count` JPEG files, half of each class, in the order of names."""
    for kind in ("cat", "dog"):
        for number in range(count // 2):
            yield f"{kind}/{kind}.{number:06d}.jpg", partial(jpeg, kind, number, seed)


def jpeg(kind: str, number: int, seed: int) -> bytes:
    """Draw animal `number` of its kind as a JPEG file of 140 to 240 pixels a side."""
    rng = np.random.default_rng([seed, number, kind == "dog"])
    place, coat = rng.choice(list(USUAL), 2, p=USUAL[kind])
    canvas = _background(rng, place)
    _animal(rng, canvas, kind, _pick(rng, FURS[coat], 12))
    for _ in range(rng.integers(3)):  # leaves in front of the animal
        x, wide, high = rng.uniform((0, 6, 0.3), (1, 16, 0.6)) * (canvas.width, 1, canvas.height)
        leaf = _outline(x, canvas.height, wide, high, rng.uniform(-0.5, 0.5), 3)
        _fill(canvas, leaf, _pick(rng, PLACES[place], 30))
    if rng.random() < 0.5:
        canvas = ImageOps.mirror(canvas)
    stream = BytesIO()
    _photograph(rng, canvas.reduce(OVERSAMPLING)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _background(rng: np.random.Generator, place: str) -> Image.Image:
    """Draw a wall and a ground, wallpaper or grass, and things that stand about, out of focus."""
    width, height = (rng.integers(140, 241, 2) * OVERSAMPLING).tolist()
    wall, ground = (_pick(rng, PLACES[place], 25) for _ in range(2))
    horizon = int(height * rng.uniform(0.45, 1.1))
    canvas = Image.new("RGB", (width, height), wall)
    draw = ImageDraw.Draw(canvas)
    if place == "cat" and rng.random() < 0.5:
        gap = int(rng.integers(24, 60))
        for x in range(gap // 2, width, gap):
            draw.rectangle((x, 0, x + gap // 3, height), _tint(wall, 1.1))
    draw.rectangle((0, horizon, width, 2 * height), ground)
    if place == "dog":
        roots = rng.integers((0, min(horizon, height * 7 // 10)), (width, height + 12), (260, 2))
        blades = np.hstack([roots, roots + rng.integers((-7, -30), (8, -9), (260, 2))])
        for number, blade in enumerate(blades.tolist()):
            draw.line(blade, _tint(ground, 0.7 if number % 2 else 1.25), 2)
    for _ in range(rng.integers(2, 9)):
        x, y, wide, high = rng.uniform((0, 0, 12, 12), (width, height, 50, 50))
        thing = _outline(x, y, wide, high, rng.uniform(-0.3, 0.3), rng.choice([3, 4, 24]))
        _fill(canvas, thing, _pick(rng, PLACES[place], 30))
    return canvas.filter(ImageFilter.BoxBlur(int(rng.integers(5))))


def _animal(rng: np.random.Generator, canvas: Image.Image, kind: str, fur: Colour) -> None:
    dark = _tint(fur, rng.uniform(0.55, 0.75))
    inks = {
        "fur": fur,
        "dark": dark,
        "light": _tint(fur, rng.uniform(1.15, 1.4)),
        "ear": dark if rng.random() < 0.7 else fur,
        "lips": _tint(dark, 0.5),
        "hair": (240, 240, 236) if sum(fur) < 520 else (90, 86, 84),
        "iris": _pick(rng, IRISES[kind], 16),
        "pink": _pick(rng, [(216, 126, 126)], 18),
        "black": (18, 16, 18),
        "white": (244, 241, 238),
    }
    middle = complex(*rng.uniform((0.34, 0.4), (0.66, 0.66)) * canvas.size)
    scale = min(canvas.size) * _factor(rng, 0.32, 0.46)

    def put(part: str, at: complex, turn: complex = 1) -> None:
        wide, high = rng.uniform(0.9, 1.1, 2)
        for ink, outline in _parts()[part]:
            shape = wide * outline.real + 1j * high * outline.imag
            _fill(canvas, middle + scale * (at + turn * shape), inks[ink])

    pose = rng.choice(list(POSES), p=[0.4, 0.35, 0.25])
    tail, body, head, large = POSES[pose]
    put(f"{kind}tail", tail)
    put(pose, 0)
    marking = rng.choice(["none", "stripes", "patches"])
    for x in (-0.42, -0.14, 0.14, 0.42):
        at = body + complex(x, rng.uniform(-0.15, 0.15))
        put(marking, at, _factor(rng, 0.7, 1.2))
    if kind == "cat":
        parts = ["catears", "cathead", rng.choice(["none", "tabby"]), "catface"]
    else:
        ears = rng.choice(["hanging", "folded", "pricked"], p=[0.6, 0.25, 0.15])
        patch, tongue = rng.choice(["none", "patch"]), rng.choice(["none", "tongue"])
        parts = ["doghead", patch, ears, "dogface", tongue, "snout"]
    turn = large * _factor(rng, 0.88, 1.12)
    for part in parts:
        put(part, head, turn)


def _photograph(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Add exposure, contrast, a colour cast, shadows from a side and from above, blur, grain."""
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(1))
    across = np.linspace(rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.1), image.width)[:, None]
    down = np.linspace(rng.uniform(0.7, 1.0), rng.uniform(1.0, 1.2), image.height)[:, None, None]
    light = across * rng.uniform(0.92, 1.08, 3) * rng.uniform(0.7, 1.2)
    pixels = (np.asarray(image) - 128.0) * rng.uniform(0.75, 1.1) + 128
    grain = int(rng.integers(2, 11))
    noise = rng.integers(-grain, grain + 1, (image.height, image.width, 1))
    return Image.fromarray(np.rint(pixels * light * down + noise).clip(0, 255).astype(np.uint8))


def _outline(x: float, y: float, wide: float, high: float, turn: float, corners: float) -> Outline:
    """Return a regular polygon that stands on a side, stretched, then turned, then moved."""
    angles = 2 * np.pi * (np.arange(corners) + 0.5) / corners + np.pi / 2
    shape = wide * np.cos(angles) + 1j * high * np.sin(angles)
    return shape * np.exp(1j * turn) + complex(x, y)


@cache
def _parts() -> dict[str, list[tuple[str, Outline]]]:
    parts: dict[str, list[tuple[str, Outline]]] = {"none": []}
    for part, ink, *numbers in map(str.split, SHAPES.strip().splitlines()):
        outline = _outline(*map(float, numbers))
        parts.setdefault(part, []).append((ink, outline))
        if float(numbers[0]) > 0:
            parts[part].append((ink, -outline.conj()))
    parts["cattail"] = [  # long, thin and curled
        ("dark", _outline(-0.08 * t - 0.35 * np.sin(t / 2), 0.1 - 0.12 * t, 0.08, 0.08, 0, 12))
        for t in np.linspace(0, 10, 30)
    ]
    return parts


def _fill(canvas: Image.Image, outline: Outline, colour: Colour) -> None:
    ImageDraw.Draw(canvas).polygon(np.rint(outline).view(np.float64).tolist(), colour)


def _factor(rng: np.random.Generator, low: float, high: float) -> complex:
    """Return what scales a shape by `low` to `high` and turns it by up to 0.3 radians."""
    return rng.uniform(low, high) * np.exp(1j * rng.uniform(-0.3, 0.3))


def _pick(rng: np.random.Generator, colours: Sequence[Colour], spread: int) -> Colour:
    varied = rng.choice(colours) + rng.integers(-spread, spread + 1, 3)
    return tuple(varied.clip(0, 255).tolist())


def _tint(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, round(part * factor)) for part in colour)
