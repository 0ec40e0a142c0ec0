"""Drawn cats and dogs: a number and a seed go in, JPEG files come out, the same on every machine.

A rehearsal for the photographs. The two classes share poses, sizes and light, and all furs and
places, though not equally often, so colours alone go a long way: a random forest on a picture's
histogram of 216 colours gets 0.89 of a thousand right. The rest is in what tells the animals
apart: ears, muzzle, nose, eyes, whiskers and tail.
Coordinates and pixels are rounded, so that the last bits of a processor's sine cannot show.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

OVERSAMPLING = 2  # drawn this much larger and reduced, for smooth edges
FURS: tuple[Colour, ...] = (  # the first half is commoner among cats, the second among dogs
    (120, 118, 122),
    (52, 48, 50),
    (150, 142, 132),
    (236, 232, 226),
    (214, 140, 70),
    (122, 84, 54),
    (222, 196, 156),
    (168, 112, 66),
)
INDOORS: tuple[Colour, ...] = (
    (196, 178, 150),
    (168, 96, 88),
    (206, 204, 198),
    (92, 84, 96),
    (150, 120, 160),
)
OUTDOORS: tuple[Colour, ...] = (
    (96, 140, 70),
    (126, 154, 186),
    (150, 178, 84),
    (70, 104, 112),
    (110, 160, 96),
)
USUAL = 0.76  # how often an animal has its kind's usual fur, or is where its kind usually is


class Brush:
    """Draws shapes given in the units of one animal, about -1 to 1, y pointing down."""

    def __init__(
        self, canvas: Image.Image, centre: Point, scale: float, tilt: float, mirrored: bool
    ) -> None:
        self.draw = ImageDraw.Draw(canvas)
        self.centre, self.scale = centre, scale
        self.cos, self.sin = math.cos(tilt), math.sin(tilt)
        self.sign = -1 if mirrored else 1

    def at(self, x: float, y: float, scale: float = 1.0, tilt: float = 0.0) -> "Brush":
        """A brush whose origin is a point of this one, for a part that is turned by itself."""
        part = object.__new__(Brush)
        part.draw, part.sign = self.draw, self.sign
        part.centre, part.scale = self._point((x, y)), self.scale * scale
        cos, sin = math.cos(tilt), math.sin(tilt)
        part.cos = self.cos * cos - self.sin * sin
        part.sin = self.sin * cos + self.cos * sin
        return part

    def _point(self, point: Point) -> Point:
        x, y = self.sign * point[0] * self.scale, point[1] * self.scale
        cos, sin = self.cos, self.sign * self.sin
        return (
            round((self.centre[0] + x * cos - y * sin) * 8) / 8,
            round((self.centre[1] + x * sin + y * cos) * 8) / 8,
        )

    def polygon(self, points: list[Point], colour: Colour) -> None:
        """Fill the shape between some corners."""
        self.draw.polygon([self._point(point) for point in points], fill=colour)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, tilt: float = 0.0
    ) -> None:
        """Fill an ellipse of half axes rx and ry, turned by `tilt` radians."""
        cos, sin = math.cos(tilt), math.sin(tilt)
        outline = []
        for corner in range(40):
            angle = corner * math.pi / 20
            dx, dy = rx * math.cos(angle), ry * math.sin(angle)
            outline.append((x + dx * cos - dy * sin, y + dx * sin + dy * cos))
        self.polygon(outline, colour)

    def line(self, points: list[Point], width: float, colour: Colour) -> None:
        """Draw a line with round ends through some points."""
        pixels = max(1, round(width * self.scale))
        path = [self._point(point) for point in points]
        self.draw.line(path, fill=colour, width=pixels, joint="curve")
        for x, y in (path[0], path[-1]):
            r = pixels / 2
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def sample(count: int, seed: int) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name `count` drawings, half of each class, and say how to draw each, in order of name."""
    for kind in ("cat", "dog"):
        for number in range(count // 2):
            yield f"{kind}/{kind}.{number:06d}.jpg", partial(jpeg, kind, number, seed)


def jpeg(kind: str, number: int, seed: int) -> bytes:
    """Draw one animal: a JPEG file of 140 to 240 pixels a side."""
    stream = BytesIO()
    picture(kind, number, seed).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def picture(kind: str, number: int, seed: int) -> Image.Image:
    """Draw animal `number` of its class; another seed draws another."""
    rng = np.random.default_rng([seed, number, kind == "dog"])
    width, height = (int(side) for side in rng.integers(140, 241, 2))
    large = (width * OVERSAMPLING, height * OVERSAMPLING)
    places = _usual(rng, kind, INDOORS, OUTDOORS)
    canvas = _background(rng, large, places)
    side = min(large)
    scale = side * rng.uniform(0.32, 0.46)
    centre = (
        large[0] / 2 + rng.uniform(-0.16, 0.16) * large[0],
        large[1] / 2 + rng.uniform(-0.1, 0.16) * large[1],
    )
    brush = Brush(canvas, centre, scale, rng.uniform(-0.3, 0.3), bool(rng.integers(2)))
    _animal(rng, brush, kind)
    _foreground(rng, canvas, places)
    return _light(rng, canvas.reduce(OVERSAMPLING))


def _animal(rng: np.random.Generator, brush: Brush, kind: str) -> None:
    fur = _vary(rng, _choice(rng, _usual(rng, kind, FURS[:4], FURS[4:])), 12)
    coat = {
        "fur": fur,
        "dark": _shade(fur, rng.uniform(0.55, 0.75)),
        "light": _shade(fur, rng.uniform(1.15, 1.4)),
    }
    pose = rng.choice(["portrait", "sitting", "standing"], p=[0.4, 0.35, 0.25])
    draw_head, draw_tail = (_cat_head, _cat_tail) if kind == "cat" else (_dog_head, _dog_tail)
    tilt = rng.uniform(-0.3, 0.3)
    if pose == "portrait":
        brush.ellipse(0, 1.25, rng.uniform(0.75, 1.05), 0.95, coat["dark"])
        head = brush.at(0, 0, rng.uniform(0.95, 1.25), tilt)
    elif pose == "sitting":
        draw_tail(rng, brush.at(0.5, 1.25), coat)
        brush.ellipse(0, 0.85, rng.uniform(0.5, 0.68), 0.85, coat["fur"])
        brush.ellipse(0, 0.75, 0.3, 0.5, coat["light"])
        for side in (-1, 1):
            brush.ellipse(side * 0.42, 1.45, 0.3, 0.22, coat["dark"])
            brush.ellipse(side * 0.18, 1.2, 0.13, 0.48, coat["fur"])
        _markings(rng, brush.at(0, 0.85), coat)
        head = brush.at(0, -0.2, rng.uniform(0.62, 0.8), tilt)
    else:
        draw_tail(rng, brush.at(0.95, 0.25), coat)
        for x in (-0.75, -0.5, 0.6, 0.85):
            brush.ellipse(x, 1.0, 0.12, rng.uniform(0.42, 0.58), coat["dark"])
        brush.ellipse(0.05, 0.5, 1.05, rng.uniform(0.42, 0.55), coat["fur"])
        _markings(rng, brush.at(0.15, 0.5), coat)
        head = brush.at(-0.85, -0.1, rng.uniform(0.52, 0.66), tilt)
    draw_head(rng, head, coat)


def _markings(rng: np.random.Generator, brush: Brush, coat: dict[str, Colour]) -> None:
    """Stripes, patches or nothing, for either animal."""
    kind = rng.choice(["plain", "stripes", "patches"])
    for place in range(4 if kind != "plain" else 0):
        x = -0.42 + place * 0.28 + rng.uniform(-0.05, 0.05)
        if kind == "stripes":
            brush.line([(x, -0.4), (x + 0.05, -0.1)], 0.06, coat["dark"])
        else:
            brush.ellipse(x, rng.uniform(-0.3, 0.2), 0.13, 0.1, coat["light"], rng.uniform(0, 3))


def _cat_head(rng: np.random.Generator, brush: Brush, coat: dict[str, Colour]) -> None:
    wide, spread = rng.uniform(0.88, 1.02), rng.uniform(-0.08, 0.08)
    ear = rng.uniform(0.95, 1.25)
    inner = _vary(rng, (222, 158, 150), 14)
    for side in (-1, 1):
        tip = (side * (0.72 + spread), -ear)
        brush.polygon([(side * 0.88, -0.2), tip, (side * 0.18, -0.66)], coat["fur"])
        brush.polygon(
            [(side * 0.76, -0.36), (tip[0] * 0.96, tip[1] * 0.86), (side * 0.36, -0.62)], inner
        )
    brush.ellipse(0, 0, wide, 0.8, coat["fur"])
    if rng.random() < 0.5:
        for x in (-0.22, 0.0, 0.22):
            brush.line([(x * 0.7, -0.42), (x, -0.72)], 0.07, coat["dark"])
    iris = _vary(rng, ((150, 190, 80), (220, 180, 60), (110, 170, 200))[rng.integers(3)], 18)
    gaze, slit = rng.uniform(-0.05, 0.05), rng.uniform(0.035, 0.085)
    for side in (-1, 1):
        brush.ellipse(side * 0.38, -0.1, 0.2, 0.165, (24, 22, 22), side * -0.2)
        brush.ellipse(side * 0.38, -0.1, 0.17, 0.14, iris, side * -0.2)
        brush.ellipse(side * 0.38 + gaze, -0.1, slit, 0.13, (12, 12, 14))
        brush.ellipse(side * 0.38 + gaze - 0.06, -0.16, 0.03, 0.03, (250, 250, 250))
    for side in (-1, 1):
        brush.ellipse(side * 0.14, 0.36, 0.2, 0.16, coat["light"])
    brush.polygon([(-0.1, 0.2), (0.1, 0.2), (0, 0.31)], _vary(rng, (206, 116, 122), 18))
    mouth = _shade(coat["dark"], 0.6)
    for side in (-1, 1):
        brush.line([(0, 0.31), (0, 0.4), (side * 0.13, 0.48)], 0.03, mouth)
    whisker = (240, 240, 236) if sum(coat["fur"]) < 520 else (90, 86, 84)
    for side in (-1, 1):
        for rise in (-0.14, 0.0, 0.14):
            start = (side * 0.24, 0.36 + rise * 0.3)
            end = (side * rng.uniform(0.95, 1.25), 0.34 + rise * 1.6)
            brush.line([start, end], 0.018, whisker)


def _dog_head(rng: np.random.Generator, brush: Brush, coat: dict[str, Colour]) -> None:
    narrow, long = rng.uniform(0.62, 0.74), rng.uniform(0.82, 0.95)
    breed = rng.choice(["hanging", "folded", "pricked"], p=[0.6, 0.25, 0.15])
    ears = coat["dark"] if rng.random() < 0.7 else coat["fur"]
    if breed == "pricked":
        for side in (-1, 1):
            brush.polygon(
                [(side * 0.66, -0.25), (side * 0.55, -1.12), (side * 0.12, -0.72)], coat["fur"]
            )
    brush.ellipse(0, -0.05, narrow, long, coat["fur"])
    if rng.random() < 0.35:
        brush.ellipse(rng.choice([-1, 1]) * 0.3, -0.25, 0.27, 0.32, coat["light"])
    drop = rng.uniform(0.5, 0.72)
    for side in (-1, 1):
        if breed == "hanging":
            brush.ellipse(
                side * (narrow + 0.06), -0.3 + drop * 0.6, 0.24, drop, ears, side * -0.16
            )
        elif breed == "folded":
            brush.polygon(
                [
                    (side * 0.16, -0.82),
                    (side * 0.7, -0.95),
                    (side * 0.98, -0.3),
                    (side * 0.52, -0.5),
                ],
                ears,
            )
    brush.ellipse(0, 0.48, rng.uniform(0.38, 0.48), rng.uniform(0.42, 0.52), coat["light"])
    eye = _vary(rng, (72, 44, 26), 14)
    for side in (-1, 1):
        brush.ellipse(side * 0.29, -0.2, 0.115, 0.115, (236, 230, 222))
        brush.ellipse(side * 0.29, -0.19, 0.1, 0.1, eye)
        brush.ellipse(side * 0.29, -0.19, 0.055, 0.055, (10, 8, 8))
        brush.ellipse(side * 0.29 - 0.035, -0.23, 0.025, 0.025, (250, 250, 250))
    if rng.random() < 0.5:
        brush.ellipse(0.02, 0.98, 0.15, rng.uniform(0.2, 0.32), _vary(rng, (222, 104, 118), 16))
    brush.ellipse(0, 0.74, 0.27, 0.09, _shade(coat["dark"], 0.5))
    brush.ellipse(0, 0.66, 0.27, 0.09, coat["light"])
    brush.line([(0, 0.34), (0, 0.68)], 0.035, _shade(coat["dark"], 0.5))
    brush.ellipse(0, 0.26, rng.uniform(0.17, 0.23), 0.14, (26, 22, 24))
    brush.ellipse(-0.06, 0.21, 0.05, 0.03, (120, 116, 118))


def _cat_tail(rng: np.random.Generator, brush: Brush, coat: dict[str, Colour]) -> None:
    """Long, thin and curled."""
    bend, length = rng.uniform(0.2, 0.5), rng.uniform(0.9, 1.3)
    path = [
        (t * 0.07 * length + bend * math.sin(t * 0.5), -t * 0.11 * length + 0.1) for t in range(11)
    ]
    brush.line(path, 0.15, coat["dark"])


def _dog_tail(rng: np.random.Generator, brush: Brush, coat: dict[str, Colour]) -> None:
    """Short, thick at its root and pointed."""
    lift = rng.uniform(-0.75, -0.3)
    brush.polygon([(-0.2, -0.15), (rng.uniform(0.45, 0.65), lift), (0.0, 0.2)], coat["fur"])


def _background(
    rng: np.random.Generator, size: tuple[int, int], places: Sequence[Colour]
) -> Image.Image:
    """A wall and a ground, each with a gradient, and things that stand about."""
    width, height = size
    wall, ground = (_vary(rng, _choice(rng, places), 25) for _ in range(2))
    fade = np.linspace(rng.uniform(0.7, 1.0), rng.uniform(1.0, 1.25), height)[:, None, None]
    horizon = int(height * rng.uniform(0.45, 1.1))
    field = np.empty((height, width, 3))
    field[:horizon], field[horizon:] = wall, ground
    canvas = Image.fromarray(np.clip(field * fade, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    if places is OUTDOORS:
        _grass(rng, draw, size, horizon, ground)
    else:
        _wallpaper(rng, draw, size, horizon, wall)
    for _ in range(rng.integers(2, 9)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(side) for side in rng.integers(min(size) // 12, min(size) // 3, 2))
        box = (x - w // 2, y - h // 2, x + w // 2, y + h // 2)
        colour = _vary(rng, _choice(rng, places), 30)
        shape = rng.integers(4)
        if shape == 0:
            draw.ellipse(box, fill=colour)
        elif shape == 1:
            draw.rectangle(box, fill=colour)
        elif shape == 2:
            draw.polygon([(x, y - h), (x + w // 2, y + h // 2), (x - w // 2, y + h // 2)], colour)
        else:
            draw.line((x - w, y - h, x + w, y + h), fill=colour, width=max(2, w // 8))
    return canvas.filter(ImageFilter.BoxBlur(int(rng.integers(0, 5))))


def _grass(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    horizon: int,
    ground: Colour,
) -> None:
    top = min(horizon, int(size[1] * 0.7))
    for x, y, lean, blade in zip(
        rng.integers(0, size[0], 260),
        rng.integers(top, size[1] + 12, 260),
        rng.integers(-6, 7, 260),
        rng.integers(10, 30, 260),
        strict=True,
    ):
        colour = _shade(ground, 0.7 if x % 2 else 1.25)
        draw.line((int(x), int(y), int(x + lean), int(y - blade)), fill=colour, width=2)


def _wallpaper(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    horizon: int,
    wall: Colour,
) -> None:
    """Stripes on half of the walls."""
    if rng.random() < 0.5:
        gap = int(rng.integers(24, 60))
        for x in range(int(rng.integers(gap)), size[0], gap):
            draw.rectangle((x, 0, x + gap // 3, horizon), fill=_shade(wall, 1.1))


def _foreground(rng: np.random.Generator, canvas: Image.Image, places: Sequence[Colour]) -> None:
    """Now and then a leaf or a post in front of the animal."""
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    for _ in range(rng.integers(0, 3)):
        x, thick = int(rng.integers(width)), int(rng.integers(3, 12))
        lean = int(rng.integers(-width // 4, width // 4 + 1))
        colour = _vary(rng, _choice(rng, places), 30)
        draw.line((x, height, x + lean, int(height * rng.uniform(0.5, 0.9))), colour, thick)


def _light(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Exposure, contrast, a colour cast, a shadow from one side, blur and grain."""
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(1))
    pixels = np.asarray(image, np.float64)
    height, width, _ = pixels.shape
    exposure, contrast = rng.uniform(0.7, 1.2), rng.uniform(0.75, 1.1)
    cast = rng.uniform(0.92, 1.08, 3)
    shadow = np.linspace(rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.1), width)[None, :, None]
    lit = ((pixels - 128) * contrast + 128) * exposure * cast * shadow
    grain = int(rng.integers(2, 11))
    lit += rng.integers(-grain, grain + 1, (height, width, 1))
    return Image.fromarray(np.clip(np.rint(lit), 0, 255).astype(np.uint8))


def _usual(
    rng: np.random.Generator, kind: str, of_cats: Sequence[Colour], of_dogs: Sequence[Colour]
) -> Sequence[Colour]:
    return of_cats if (kind == "cat") == (rng.random() < USUAL) else of_dogs


def _choice(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    return colours[rng.integers(len(colours))]


def _vary(rng: np.random.Generator, colour: Colour, spread: int) -> Colour:
    return _clip(part + int(rng.integers(-spread, spread + 1)) for part in colour)


def _shade(colour: Colour, factor: float) -> Colour:
    return _clip(round(part * factor) for part in colour)


def _clip(parts: Iterator[int]) -> Colour:
    red, green, blue = (min(255, max(0, part)) for part in parts)
    return red, green, blue
