r"""The artifact store: bytes go to an fsspec URL, events carry only the reference: claim check.

Every file is kept under its content, so that storing it again costs nothing and a name can never
come to mean other bytes::

    {store}/{first two digits of the sha256}/{sha256}

A folder is its files, each kept like that, and a **manifest** that lists them by path, size, sha256
and URL. The manifest is JSON in a fixed order, itself kept under its content, so that the same
folder always gives the same manifest.

What a folder keeps is files. Empty folders inside it are dropped, as object stores and trackers
drop them. A symbolic link to a file is stored as the file; a link to a folder, a dangling link or a
device is refused, because neither leaving it out nor following it is what the caller surely meant.
An odd byte in a name that is not UTF-8 is written ``\xNN``.

Where the file system can rename (local folders), a blob is written under a temporary name, synced
and renamed. Object stores show an upload only once it is whole. So a killed upload never leaves a
half blob under its final name.

All functions block: callers on an event loop run them in a thread.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import msgspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from bus.errors import ConfigError, StoreError
from bus.kinds import Blob

__all__ = [
    "ArtifactStore",
    "Manifest",
    "ManifestFile",
    "StoredBlob",
    "check_file",
    "fetch",
    "read_chunks",
    "read_manifest",
]

_CHUNK_BYTES = 1024 * 1024

_EXTRAS = {"s3": "trainbus[s3]", "s3a": "trainbus[s3]"}
"""Protocols for which trainbus has an extra; the others are named by fsspec's own message."""


class ManifestFile(msgspec.Struct, frozen=True):
    """One file of a folder.

    Attributes:
        path: Relative to the folder, ``/`` between levels.
        size: Bytes.
        sha256: Lower-case hex.
        url: Where its bytes are.
    """

    path: str
    size: int
    sha256: str
    url: str


class Manifest(msgspec.Struct, frozen=True):
    """The files of a folder, sorted by path."""

    files: list[ManifestFile]


_manifest_decoder = msgspec.json.Decoder(Manifest)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """What the store keeps: the ``dataref`` of an event, and the size and sha256 of its blob.

    ``size`` is that of all files of a folder, ``sha256`` that of its manifest.
    """

    url: str
    size: int
    sha256: str


class ArtifactStore:
    """Writes blobs below one fsspec URL, such as ``file:///data/store`` or ``s3://bucket/store``.

    Raises:
        ConfigError: The URL's protocol is unknown, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self._fs, self._root = _locate(url)

    def put_file(self, path: Path) -> StoredBlob:
        """Store one file, unless it is there already.

        Raises:
            StoreError: ``is_missing`` when there is no such file; else the store cannot be written.
        """
        with _translated(path), path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            return StoredBlob(self._put(file, sha256, size), size, sha256)

    def put_folder(self, path: Path) -> StoredBlob:
        """Store the files of a folder and the manifest that names them.

        Raises:
            StoreError: As :meth:`put_file`, or the folder holds a link or device that it refuses.
        """
        files = []
        for name in _files_below(path):
            blob = self.put_file(path / name)
            files.append(ManifestFile(_as_text(name), blob.size, blob.sha256, blob.url))
        raw = msgspec.json.encode(Manifest(files))
        sha256 = hashlib.sha256(raw).hexdigest()
        with _translated(path):
            url = self._put_bytes(raw, sha256)
        return StoredBlob(url, sum(file.size for file in files), sha256)

    def _put_bytes(self, raw: bytes, sha256: str) -> str:
        return self._put(BytesIO(raw), sha256, len(raw))

    def _put(self, file: BinaryIO, sha256: str, size: int) -> str:
        folder = f"{self._root}/{sha256[:2]}"
        final = f"{folder}/{sha256}"
        if not self._has(final, size):
            if isinstance(self._fs, LocalFileSystem):
                self._fs.makedirs(folder, exist_ok=True)
                self._upload_and_rename(file, final, sha256)
            else:
                self._upload(file, final, sha256)
        return _url_of(self._fs, final)

    def _has(self, path: str, size: int) -> bool:
        try:
            found = self._fs.info(path)
        except FileNotFoundError:
            return False
        return bool(found.get("type") == "file" and found.get("size") == size)

    def _upload_and_rename(self, file: BinaryIO, final: str, sha256: str) -> None:
        temporary = f"{final}.{secrets.token_hex(4)}.part"
        try:
            self._upload(file, temporary, sha256)
            Path(temporary).replace(final)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _upload(self, file: BinaryIO, path: str, sha256: str) -> None:
        with self._fs.open(path, "wb") as target:
            actual = _copy(file, target)
            if isinstance(self._fs, LocalFileSystem):
                target.flush()
                os.fsync(target.fileno())
        if actual != sha256:
            self._fs.rm(path)
            raise StoreError("the file changed while it was being stored", is_damaged=True)


def read_manifest(dataref: str, sha256: str) -> Manifest:
    """Read and check the manifest of a stored folder.

    Raises:
        StoreError: It cannot be read, is missing, damaged, or names a path outside the folder.
        ConfigError: The URL's protocol is unknown, or its package is not installed.
    """
    fs, path = _locate(dataref)
    with _translated(dataref, fs, path):
        raw = fs.cat_file(path)
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise StoreError(f"{dataref}: the manifest is damaged", is_damaged=True)
    try:
        manifest = _manifest_decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise StoreError(f"{dataref}: no manifest of a folder: {error}", is_damaged=True) from error
    for file in manifest.files:
        if not _is_inside(file.path):
            raise StoreError(
                f"{dataref}: {file.path!r} would leave the folder it belongs to", is_damaged=True
            )
    return manifest


def fetch(dataref: str, blob: Blob, target: Path) -> Path:
    """Copy a blob to ``target``: a file, or a folder when ``blob.is_folder``.

    Args:
        dataref: URL of the file, or of the manifest.
        blob: What the event says about it; its sha256 is checked.
        target: Where to write; its parent is made when missing. Left away when this fails.

    Returns:
        ``target``.

    Raises:
        StoreError: ``is_missing`` when the store no longer has it, ``is_damaged`` when the bytes
            are others; else the store cannot be read or the disk not written.
        ConfigError: The URL's protocol is unknown, or its package is not installed.
    """
    if not blob.is_folder:
        return _fetch_file(dataref, blob.sha256, target)
    manifest = read_manifest(dataref, blob.sha256)
    with _translated(target):
        target.mkdir(parents=True, exist_ok=True)
    for file in manifest.files:
        _fetch_file(file.url, file.sha256, target / file.path)
    return target


def read_chunks(
    dataref: str, blob: Blob, chunk_bytes: int = _CHUNK_BYTES
) -> Generator[bytes, None, None]:
    """The bytes of a blob that is one file, a chunk at a time.

    The last chunk comes only when size and sha256 are those of the event: whoever sends the chunks
    on never completes a file that is damaged.

    Raises:
        StoreError: As :func:`fetch`.
        ConfigError: The URL's protocol is unknown, or its package is not installed.
    """
    fs, path = _locate(dataref)
    digest = hashlib.sha256()
    size = 0
    held = b""
    with _translated(dataref, fs, path), fs.open(path, "rb") as source:
        while chunk := source.read(chunk_bytes):
            digest.update(chunk)
            size += len(chunk)
            if size > blob.size:
                break
            if held:
                yield held
            held = chunk
    if size != blob.size or digest.hexdigest() != blob.sha256:
        raise StoreError(f"{dataref}: the bytes are not those of its checksum", is_damaged=True)
    if held:
        yield held


def check_file(dataref: str, blob: Blob) -> None:
    """Make sure that the store has a blob that is one file, of the size that its event says.

    Raises:
        StoreError: As :func:`fetch`.
        ConfigError: The URL's protocol is unknown, or its package is not installed.
    """
    fs, path = _locate(dataref)
    with _translated(dataref, fs, path):
        size = fs.info(path).get("size")
    if size != blob.size:
        raise StoreError(f"{dataref}: has {size} bytes and not {blob.size}", is_damaged=True)


def _fetch_file(url: str, sha256: str, target: Path) -> Path:
    fs, path = _locate(url)
    try:
        with _translated(url, fs, path):
            target.parent.mkdir(parents=True, exist_ok=True)
            with fs.open(path, "rb") as source, target.open("wb") as file:
                actual = _copy(source, file)
        if actual != sha256:
            raise StoreError(f"{url}: the bytes are not those of its checksum", is_damaged=True)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy to the end and return the sha256 of what was copied."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _files_below(root: Path) -> list[str]:
    """The paths of all files below a folder, sorted, ``/`` between levels."""
    found: list[str] = []
    with _translated(root):
        if not root.is_dir():
            raise FileNotFoundError(f"no folder {root}")
        for folder, names, files in os.walk(root, onerror=_reraise):
            here = Path(folder)
            for name in names:
                _check_link(here / name)
            for name in files:
                _check_link(here / name)
                if not (here / name).is_file():
                    raise StoreError(f"{here / name} is neither a file nor a folder: leave it out")
            found += [(here / name).relative_to(root).as_posix() for name in files]
    return sorted(found)


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.is_file():
        raise StoreError(
            f"{path} is a link to a folder or to nothing: copy what it means, or leave it out"
        )


def _as_text(name: str) -> str:
    r"""A file name that is not UTF-8 as it can be written: its odd bytes as ``\xNN``."""
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _reraise(error: OSError) -> None:
    raise error


def _is_inside(path: str) -> bool:
    """Whether a relative path stays below the folder it is joined to."""
    return "\0" not in path and all(part not in {"", ".", ".."} for part in path.split("/"))


def _locate(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it."""
    if url.startswith("file://"):
        # fsspec leaves %20 as it stands, while Path.as_uri() and people's URLs write it.
        return LocalFileSystem(), unquote(urlsplit(url).path).rstrip("/")
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        protocol = url.partition("://")[0]
        extra = _EXTRAS.get(protocol)
        fix = f"pip install '{extra}'" if extra else str(error)
        raise ConfigError(f"artifact store {url!r} needs another package: {fix}") from error
    except ValueError as error:
        raise ConfigError(f"artifact store {url!r}: {error}") from error
    return fs, str(path).rstrip("/")


def _url_of(fs: Any, path: str) -> str:
    if isinstance(fs, LocalFileSystem):
        return Path(path).as_uri()
    return str(fs.unstrip_protocol(path))


@contextmanager
def _translated(what: object, fs: Any = None, path: str = "") -> Iterator[None]:
    """Turn what file systems raise into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        store = Path(path).parent.parent
        if isinstance(fs, LocalFileSystem) and not store.is_dir():
            raise StoreError(
                f"the artifact store {store} is not on this machine: "
                "set TRAINBUS_STORE to a place that every machine reaches"
            ) from error
        raise StoreError(f"{what} is not there", is_missing=True) from error
    except Exception as error:  # every fsspec backend has errors of its own
        raise StoreError(f"{what}: {type(error).__name__}: {error}") from error
