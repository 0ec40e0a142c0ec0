"""The drawn cats and dogs."""

from io import BytesIO

from catsdogs.data import sample

import numpy as np
import pytest
from PIL import Image


def test_names_come_in_order_and_files_are_jpeg_of_usual_sizes():
    drawers = dict(sample.sample(20, seed=1))
    assert list(drawers) == [
        f"{kind}/{kind}.{number:06d}.jpg" for kind in ("cat", "dog") for number in range(10)
    ]
    for draw in drawers.values():
        image = Image.open(BytesIO(draw()))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert all(140 <= side <= 240 for side in image.size)


def test_an_image_depends_on_its_name_and_the_seed_alone():
    few, many, other = (dict(sample.sample(*asked)) for asked in ((4, 1), (20, 1), (4, 2)))
    files = {name: draw() for name, draw in reversed(few.items())}
    assert files == {name: many[name]() for name in files}
    assert len({*files.values(), *(draw() for draw in other.values())}) == 8


@pytest.mark.parametrize(("error", "shows"), [(1e-13, False), (1e-2, True)])
def test_the_last_bits_of_a_sine_do_not_show(monkeypatch, request, error, shows):
    request.addfinalizer(sample._parts.cache_clear)
    expected = [draw() for _, draw in sample.sample(10, seed=1)]
    for name in ("sin", "cos", "exp"):
        exact = getattr(np, name)
        monkeypatch.setattr(np, name, lambda x, exact=exact: exact(x) * (1 + error))
    sample._parts.cache_clear()
    for (name, draw), file in zip(sample.sample(10, seed=1), expected, strict=True):
        assert (draw() != file) == shows, name
