"""A page on this machine that takes a photograph and shows what the models make of it.

The page is `demo.html` beside this file. Nothing of it comes from the internet, and no other
machine can open it. It is not made with Gradio, whose releases want an older Pillow than the one
that decodes the images here.
"""

from __future__ import annotations

import base64
import logging
import os
import socket
import sys
import threading
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catsdogs import layout, params, runtime
from catsdogs.commands import champion, predict
from catsdogs.data import images
from catsdogs.data.batches import PixelReader, read_subset
from catsdogs.evaluation.examples import first_of_each_class
from catsdogs.evaluation.gradcam import GradCam
from catsdogs.files import digest
from catsdogs.reporting import explanations
from catsdogs.stage import UserError
from catsdogs.tracking.serving import Classifier

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from flask import Flask

HOST = "127.0.0.1"
EXAMPLES = 10
VISIBLE = 0.55  # how much of the heat map lies over the photograph


@dataclass(frozen=True)
class Model:
    """A model that answers, and shows where it looks."""

    title: str
    classifier: Classifier
    cam: GradCam

    def answer(self, content: bytes) -> dict[str, Any]:
        """Say what an image file shows: class, P(second class), and a heat map as a PNG.

        Raises:
            UnusableImage: with the reason.
        """
        pixels = self.classifier.decode(content)
        found = self.classifier.probability(pixels)
        heat = png(draw_heat(self.cam(pixels[None])[0], pixels.shape[1::-1]))
        kind = self.classifier.classes[int(found >= 0.5)]
        return {"model": self.title, "class": kind, "second": found, "heat": as_url(heat)}


def main(port: int) -> None:
    """Serve the page until somebody interrupts it.

    Args:
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        UserError: a model is missing, or the port is taken.
    """
    from werkzeug.serving import make_server

    names = params.load_models()
    lacking = [str(layout.model(each)) for each in names if not layout.model(each).is_file()]
    if lacking:
        raise UserError(f"{', '.join(lacking)} missing: run `dvc repro`")
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise UserError(
            f"port {port} of {HOST} cannot be used ({error.strerror}): choose another by --port"
        ) from None
    runtime.pin_for_inference()
    app = make_app(load(names), examples())
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with listening:
        server = make_server(HOST, port, app, threaded=True, fd=listening.fileno())
        print(f"open http://{HOST}:{listening.getsockname()[1]} (Ctrl+C ends it)", flush=True)
        server.serve_forever()


def load(names: list[str]) -> list[Model]:
    """Load the models that stages trained, and MLflow's champion if it is another one."""
    titles = {layout.title(name): layout.title(name) for name in names}
    if os.environ.get("MLFLOW_TRACKING_URI") or layout.TRACKING_STORE.exists():
        try:
            best = digest(predict.download(champion.ADDRESS)[0], "md5")
        except UserError as error:
            print(f"without a champion: {error}", file=sys.stderr)
        else:
            same = [name for name in names if digest(layout.model(name), "md5") == best]
            name = layout.title(same[0]) if same else champion.ADDRESS
            titles[name] = f"{name}, the champion" if same else "the champion"
    found = [(title, predict.load(name)) for name, title in titles.items()]
    return [Model(title, each, GradCam(each.model)) for title, each in found]


def examples() -> dict[str, bytes]:
    """Return validation images, half of each class, by their names, as PNG; none without data."""
    if not (layout.PIXELS.is_dir() and layout.VALIDATION.is_file()):
        print(f"without examples: {layout.PIXELS.parent} is not here", file=sys.stderr)
        return {}
    subset = read_subset(layout.VALIDATION)
    places = first_of_each_class(subset.labels, EXAMPLES)
    pixels = PixelReader(layout.PIXELS)[subset.rows[places]]
    return {
        subset.names[place]: png(Image.fromarray(image))
        for place, image in zip(places, pixels, strict=True)
    }


def make_app(models: list[Model], shown: dict[str, bytes]) -> Flask:
    """Return the application: the page, and what it asks.

    Args:
        models: which answer, in this order.
        shown: examples, PNG by name.
    """
    import flask

    app = flask.Flask(__name__)
    # A page elsewhere whose name is made to lead here is refused.
    app.config["TRUSTED_HOSTS"] = [HOST, "localhost"]
    app.config["MAX_CONTENT_LENGTH"] = int(images.MAX_FILE_MB * 1e6)
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    one_at_a_time = threading.Lock()

    @app.get("/")
    def page() -> str:
        return flask.render_template_string(
            template,
            classes=models[0].classifier.classes,
            most_mb=images.MAX_FILE_MB,
            drawn=params.load_text("data.source") == layout.SAMPLE,
            examples={name: as_url(content) for name, content in shown.items()},
        )

    @app.post("/answers")
    def answers() -> Any:
        content = flask.request.get_data()
        try:
            with one_at_a_time:
                found = [model.answer(content) for model in models]
        except images.UnusableImage as error:
            return {"error": f"This cannot be used: {error}."}, 400
        preview = png(Image.fromarray(models[0].classifier.decode(content)))
        return {"answers": found, "preview": as_url(preview)}

    @app.errorhandler(413)
    def too_large(_: Exception) -> Any:
        return {"error": f"This cannot be used: more than {images.MAX_FILE_MB} MB."}, 413

    return app


def draw_heat(heat: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return a map of Grad-CAM as a picture to lay over the image, as the report has it.

    Args:
        heat: 0…1, rows×columns.
        size: width and height of the picture.
    """
    from matplotlib import colormaps

    smooth = Image.fromarray(heat).resize(size, Image.Resampling.BICUBIC)
    colours = colormaps[explanations.HEAT](np.clip(np.asarray(smooth), 0, 1), alpha=VISIBLE)
    return Image.fromarray(np.rint(colours * 255).astype(np.uint8))


def png(picture: Image.Image) -> bytes:
    """Encode a picture."""
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def as_url(content: bytes) -> str:
    """Return a PNG as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
