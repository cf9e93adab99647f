from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from publishers import Run, start_run
from publishers.media import MediaError, picture, plot
from tests.fixtures.spool import Spool

mpl.use("agg")

PNG = b"\x89PNG\r\n\x1a\n"


def opened(data: bytes | Path) -> Image.Image:
    assert isinstance(data, bytes)
    return Image.open(io.BytesIO(data))


def figure() -> Figure:
    made = Figure(figsize=(2, 1), dpi=50)
    made.subplots().plot([1, 2, 3])
    return made


class Plotly:
    """As much of a plotly figure as matters."""

    def write_html(self, file: Any, include_plotlyjs: str) -> None:
        file.write(f"<html>{include_plotlyjs} é</html>")


class Broken:
    def savefig(self, file: object, format: str) -> None:  # noqa: A002  # matplotlib's name
        raise RuntimeError("no renderer")


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (PNG + b"rest", ".png"),
        (b"\xff\xd8\xff\xe0rest", ".jpg"),
        (b"GIF89a", ".gif"),
        (b"BMrest", ".bmp"),
        (b"II*\0rest", ".tif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"),
        (b"<svg xmlns=''></svg>", ".svg"),
        (b"<!DOCTYPE html><html></html>", ".html"),
    ],
)
def test_encoded_bytes_are_told_by_their_beginning(data: bytes, suffix: str) -> None:
    for kind in (bytes, bytearray, memoryview):
        file = picture(kind(data))
        assert (file.content, file.suffix) == (data, suffix)


def test_a_path_is_taken_as_it_is() -> None:
    assert picture("a.png").content == plot(Path("a.png")).content == Path("a.png")


def test_a_pil_image_becomes_png() -> None:
    file = picture(Image.new("RGB", (3, 2), (255, 0, 0)))
    assert file.suffix == ".png"
    assert opened(file.content).getpixel((0, 0)) == (255, 0, 0)


def test_a_matplotlib_figure_becomes_png() -> None:
    for make in (picture, plot):
        file = make(figure())
        assert opened(file.content).size == (100, 50)


def test_a_plotly_figure_becomes_a_page() -> None:
    file = plot(Plotly())
    assert file.suffix == ".html"
    assert file.content == "<html>cdn é</html>".encode()


@pytest.mark.parametrize(
    ("array", "mode", "pixel"),
    [
        (np.full((2, 3), 7, np.uint8), "L", 7),
        (np.full((2, 3, 1), 7, np.uint8), "L", 7),
        (np.full((2, 3, 3), 300, np.int64), "RGB", (255, 255, 255)),
        (np.full((2, 3, 4), 0.5), "RGBA", (128, 128, 128, 128)),
        (np.full((2, 3), 2.0, np.float32), "L", 255),
        (np.full((2, 3), np.nan), "L", 0),
        (np.full((2, 3), True), "L", 255),
    ],
)
def test_an_array_becomes_png(array: Any, mode: str, pixel: object) -> None:
    image = opened(picture(array).content)
    assert (image.size, image.mode) == ((3, 2), mode)
    assert image.getpixel((0, 0)) == pixel


@pytest.mark.parametrize(
    "value",
    [
        3,
        None,
        [[1, 2]],
        b"no picture",
        np.zeros(3),
        np.zeros((2, 2, 2)),
        np.zeros((0, 2)),
        np.array([["a"]]),
        Broken(),
    ],
)
def test_what_is_no_picture_is_refused(value: object) -> None:
    with pytest.raises(MediaError):
        picture(value)


def test_an_array_is_no_plot() -> None:
    with pytest.raises(MediaError, match="is no plot"):
        plot(np.zeros((2, 2)))


def test_without_pillow_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(MediaError, match="pip install pillow"):
        picture(np.zeros((2, 2)))


@pytest.fixture
def run(spool: Spool) -> Run:
    return start_run("p")


def test_a_picture_is_a_file_beside_its_record(spool: Spool, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "val_batch0.png"
    path.write_bytes(PNG + b"first")
    run.image("val", "batch0", path, step=10)
    path.write_bytes(PNG + b"second")
    run.image("val", "a / b", np.zeros((2, 2)))
    first, second = spool.records("image")
    assert first["data"] == {"title": "val", "series": "batch0", "step": 10}
    assert first["blob"]["name"] == "val_batch0.png"
    assert spool.blob(first).read_bytes() == PNG + b"first"
    assert second["data"] == {"title": "val", "series": "a / b"}
    assert second["blob"]["name"] == "a-b.png"
    assert opened(spool.blob(second).read_bytes()).size == (2, 2)


def test_a_plot_is_a_file_beside_its_record(spool: Spool, run: Run) -> None:
    run.plot("confusion", "val", figure(), step=3)
    run.plot("confusion", "page", Plotly())
    first, second = spool.records("plot")
    assert first["data"] == {"title": "confusion", "series": "val", "step": 3}
    assert first["blob"]["name"] == "val.png"
    assert second["blob"]["name"] == "page.html"
