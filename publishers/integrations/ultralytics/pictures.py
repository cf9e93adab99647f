"""Which pictures of a training folder are logged, and as what.

As Ultralytics' own ClearML callback names them: batches of training as "Mosaic", of validation as
"Validation", with the number of the batch as the step; the rest are plots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Picture", "PictureFolder", "batch_picture", "is_whole"]

_BATCH = re.compile(r"_batch(\d+)")
_BATCH_START = re.compile(r"^(train|val)_batch\d+")
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"


class Picture(NamedTuple):
    """A picture and its place."""

    title: str
    series: str
    step: int
    path: Path


class PictureFolder:
    """Finds in a folder what was not logged yet, or has changed since.

    Ultralytics draws in threads of its own: a file that is not whole yet is left for the next time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[Path, tuple[int, int]] = {}

    def batches(self, start: str, title: str) -> Iterator[Picture]:
        """New pictures of batches: ``train_batch*`` or ``val_batch*``."""
        for path in self._new(self.folder.glob(f"{start}_batch*.jpg")):
            yield batch_picture(path, title)

    def plots(self, drawn: Iterable[Any]) -> Iterator[Path]:
        """New plots: those that the trainer names, and what else lies in the folder."""
        named = [Path(one) for one in drawn]
        others = [path for path in self.folder.glob("*") if path.suffix.lower() in _SUFFIXES]
        for path in self._new([*named, *others]):
            if not _BATCH_START.match(path.name):
                yield path

    def _new(self, paths: Iterable[Path]) -> Iterator[Path]:
        for path in sorted(set(paths)):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            try:
                stat = path.stat()
                known = (stat.st_mtime_ns, stat.st_size)
                if self._seen.get(path) == known or not is_whole(path):
                    continue
            except OSError:
                continue
            self._seen[path] = known
            yield path


def batch_picture(path: Path, title: str) -> Picture:
    """``val_batch1_pred.jpg`` is series ``val_pred.jpg`` of step 1."""
    found = _BATCH.search(path.name)
    if found is None:
        return Picture(title, path.name, 0, path)
    return Picture(title, path.name.replace(found[0], ""), int(found[1]), path)


def is_whole(path: Path) -> bool:
    """Whether a PNG or JPEG has its end.

    Raises:
        OSError: It cannot be read.
    """
    end = _PNG_END if path.suffix.lower() == ".png" else _JPEG_END
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(end)))
        return file.read() == end
