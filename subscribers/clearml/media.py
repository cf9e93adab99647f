"""What both sinks ask of a blob: its URL, the size of a picture, the plot that shows one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from bus.events import Event
from bus.kinds import Artifact, Blob, Checkpoint, Image, Model, Plot
from subscribers.clearml.names import suffix_of

__all__ = ["blob_of", "figure", "picture_size", "readable_url"]

_READABLE = {"azure", "gs", "http", "https", "s3"}
"""Schemes that ClearML's StorageManager reads on any machine."""

_PAGES = {".htm", ".html"}

_FRAME = (640, 480)
"""Of a picture whose size is not known, as in the SDK. Browsers scale it."""


def blob_of(event: Event) -> Blob:
    """The blob of an event that has one."""
    return cast("Artifact | Checkpoint | Image | Model | Plot", event.data).blob


def readable_url(event: Event) -> str | None:
    """The URL of a blob in the artifact store, if every client of ClearML can read it."""
    url = event.dataref or ""
    is_readable = urlsplit(url).scheme in _READABLE and not blob_of(event).is_folder
    return url if is_readable else None


def picture_size(file: Path, name: str) -> tuple[int, int] | None:
    """Width and height of a picture in pixels, read from its first bytes.

    Of a PNG the first chunk holds them. Others are known where Pillow is installed, which clearml
    brings along.

    Args:
        file: The picture.
        name: The name it has for people; its suffix counts.

    Returns:
        None for a page, which is no picture.
    """
    if suffix_of(name).lower() in _PAGES:
        return None
    with file.open("rb") as opened:
        head = opened.read(24)
    if len(head) == 24 and head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR":
        width, height = struct.unpack(">II", head[16:24])
        return (width, height) if width and height else _FRAME
    try:
        # Here, because a session needs no package for it.
        from PIL import Image as Pillow

        with Pillow.open(file) as picture:
            return picture.size
    except (ImportError, OSError):
        return _FRAME


def figure(title: str, source: str, size: tuple[int, int]) -> dict[str, Any]:
    """A plotly figure with a picture in it, as ``create_image_plot`` of the SDK makes it.

    Args:
        title: Stands above it.
        source: URL of the picture.
        size: Its width and height.
    """
    width, height = size
    image = {
        "sizex": width,
        "sizey": height,
        "xref": "x",
        "yref": "y",
        "opacity": 1.0,
        "x": 0,
        "y": height,
        "sizing": "contain",
        "layer": "below",
        "source": source,
    }
    layout = {
        "xaxis": {"visible": False, "range": [0, width]},
        "yaxis": {"visible": False, "range": [0, height], "scaleanchor": "x"},
        "margin": {"l": 0, "r": 0, "t": 64, "b": 0},
        "images": [image],
        "showlegend": False,
        "title": title,
        "name": None,
    }
    return {"data": [], "layout": layout}
