"""Pictures and plots as they come in, turned into files.

Nothing of Pillow, matplotlib, numpy or plotly is imported unless an object of theirs is given; most
are told by what they can do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["MediaError", "MediaFile", "picture", "plot"]


class MediaError(ValueError):
    """The object is no picture or plot, or what is needed to write it is not installed."""


class MediaFile(NamedTuple):
    """What to copy, or what to write.

    Attributes:
        content: A path to copy, or the bytes of the file.
        suffix: Of the file's name, with its dot; empty for a path, which has its own.
    """

    content: Path | bytes
    suffix: str = ""


_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


def picture(value: object) -> MediaFile:
    """A path, encoded bytes, a PIL image, a matplotlib figure, or an array of H x W x (1, 3, 4).

    Floats in an array run from 0 to 1, whole numbers from 0 to 255.

    Raises:
        MediaError: It is none of these.
    """
    common = _common(value)
    if common is not None:
        return common
    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        return MediaFile(_array_png(value), ".png")
    raise MediaError(
        f"{type(value).__name__} is no picture: give a path, bytes, a PIL image, "
        "a matplotlib figure or an array of height x width x (1, 3 or 4)"
    )


def plot(value: object) -> MediaFile:
    """As :func:`picture` without arrays, and plotly figures, which become HTML pages.

    Raises:
        MediaError: It is none of these.
    """
    write_html = getattr(value, "write_html", None)
    if callable(write_html):
        page = StringIO()
        _run(lambda: write_html(page, include_plotlyjs="cdn"))
        return MediaFile(page.getvalue().encode(), ".html")
    common = _common(value)
    if common is not None:
        return common
    raise MediaError(
        f"{type(value).__name__} is no plot: give a path, bytes, "
        "or a figure of matplotlib or plotly"
    )


def _common(value: object) -> MediaFile | None:
    if isinstance(value, str | os.PathLike):
        return MediaFile(Path(os.fsdecode(value)))
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return MediaFile(data, _suffix_of(data))
    savefig = getattr(value, "savefig", None)
    if callable(savefig):
        return MediaFile(_saved(lambda file: savefig(file, format="png")), ".png")
    save = getattr(value, "save", None)
    if callable(save) and hasattr(value, "mode") and hasattr(value, "size"):
        return MediaFile(_saved(lambda file: save(file, format="PNG")), ".png")
    return None


def _suffix_of(data: bytes) -> str:
    for signature, suffix in _SIGNATURES:
        if data.startswith(signature):
            return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    start = data[:512].lstrip().lower()
    if start.startswith((b"<svg", b"<?xml")):
        return ".svg"
    if start.startswith(b"<"):
        return ".html"
    raise MediaError("these bytes are no PNG, JPEG, GIF, BMP, TIFF, WebP, SVG or HTML")


def _saved(save: Callable[[BytesIO], object]) -> bytes:
    file = BytesIO()
    _run(lambda: save(file))
    return file.getvalue()


def _run(write: Callable[[], Any]) -> Any:
    try:
        return write()
    except Exception as error:
        raise MediaError(f"it could not be written: {type(error).__name__}: {error}") from error


def _array_png(value: Any) -> bytes:
    try:
        import numpy as np
        from PIL import Image
    except ImportError as error:
        raise MediaError(
            "an array as a picture needs Pillow and numpy: pip install pillow numpy"
        ) from error
    array = _run(lambda: np.asarray(value))
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in {3, 4})) or not array.size:
        raise MediaError(
            f"an array of shape {array.shape} is no picture: height x width x (1, 3 or 4) is"
        )
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0) * 255.0
        array = array.round()
    elif array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind not in "iu":
        raise MediaError(f"an array of {array.dtype} is no picture")
    image = Image.fromarray(array.clip(0, 255).astype(np.uint8))
    return _saved(lambda file: image.save(file, format="PNG"))
