from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from bus.errors import ConfigError
from publishers.snapshot import SnapshotError, Snapshots, read_reserve, safe_name

GIB = 1024**3


class Spool:
    """Snapshots in a folder, on a disk with as much room as the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs").mkdir(parents=True)
        self.total, self.free = 100 * GIB, 50 * GIB
        self.warnings: list[str] = []
        self.snapshots = Snapshots(
            folder,
            lambda cause, message: self.warnings.append(message),
            disk_usage=lambda path: (self.total, self.total - self.free, self.free),
        )

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "blobs").iterdir())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool" / "sources" / "0-1")


def no(*arguments: object) -> int:
    """A system call this file system does not know."""
    raise OSError(errno.EOPNOTSUPP, "not here")


@pytest.mark.parametrize("way", ["best", "copy_file_range", "plain"])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_copy_is_the_file_as_it_was(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, size: int
) -> None:
    if way != "best":
        monkeypatch.setattr(fcntl, "ioctl", no)
    if way == "plain":
        monkeypatch.setattr(os, "copy_file_range", no)
    data = os.urandom(size)
    file = tmp_path / "last.pt"
    file.write_bytes(data)
    blob = spool.snapshots.copy(file)
    file.write_bytes(b"changed")
    assert (spool.folder / blob.path).read_bytes() == data
    assert blob.as_dict() == {"path": blob.path, "name": "last.pt", "is_folder": False}
    assert blob.path == "blobs/000001-last.pt"


def test_a_file_without_a_size_is_read_to_its_end(spool: Spool) -> None:
    blob = spool.snapshots.copy("/proc/self/status")
    assert b"Pid:" in (spool.folder / blob.path).read_bytes()


def test_two_copies_of_one_name_do_not_meet(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = spool.snapshots.copy(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"2")
    second = spool.snapshots.copy(tmp_path / "a")
    assert (spool.folder / first.path).read_bytes() == b"1"
    assert (spool.folder / second.path).read_bytes() == b"2"


def test_a_folder_is_copied_with_all_below_it(spool: Spool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "MLmodel").write_text("flavors")
    (folder / "deep" / "er" / "weights").write_bytes(b"w")
    blob = spool.snapshots.copy(f"{folder}/")
    copy = spool.folder / blob.path
    assert blob.is_folder
    assert blob.name == "model"
    assert (copy / "MLmodel").read_text() == "flavors"
    assert (copy / "deep/er/weights").read_bytes() == b"w"
    assert (copy / "empty").is_dir()


def test_links_to_files_are_followed_and_links_to_folders_are_named(
    spool: Spool, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"weights")
    (folder / "weights").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe")
    copy = spool.folder / spool.snapshots.copy(folder).path
    assert [path.name for path in copy.iterdir()] == ["weights"]
    assert not (copy / "weights").is_symlink()
    assert (copy / "weights").read_bytes() == b"weights"
    assert len(spool.warnings) == 3


def test_a_folder_that_holds_the_spool_is_copied_without_it(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    copy = spool.folder / spool.snapshots.copy(tmp_path).path
    assert [path.name for path in copy.iterdir()] == ["a"]
    assert "it is the spool itself" in spool.warnings[0]
    with pytest.raises(SnapshotError, match="part of the spool"):
        spool.snapshots.copy(spool.folder)


def test_a_folder_without_a_name_gets_one(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    (folder / "below").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert spool.snapshots.copy(".").name == "here"
    assert spool.snapshots.copy("below/..").name == "here"
    assert spool.snapshots.copy("/proc/self/status").name == "status"


def test_a_copy_can_be_removed(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    spool.snapshots.remove(spool.snapshots.copy(tmp_path / "a"))
    spool.snapshots.remove(spool.snapshots.copy(tmp_path))
    assert spool.names() == []


def test_a_missing_file_is_named(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="nothing is not logged: No such file") as caught:
        spool.snapshots.copy(tmp_path / "nothing")
    assert caught.value.cause == "missing_file"


def test_what_is_no_file_is_refused_without_opening_it(spool: Spool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SnapshotError, match="neither a file nor a folder"):
        spool.snapshots.copy(tmp_path / "pipe")


def test_bytes_and_functions_make_files(spool: Spool) -> None:
    first = spool.snapshots.write("a.png", b"data")

    def fill(path: Path) -> None:
        path.write_text("text")

    second = spool.snapshots.write("b.png", fill)
    assert (spool.folder / first.path).read_bytes() == b"data"
    assert (spool.folder / second.path).read_text() == "text"


def test_a_copy_that_fails_half_way_leaves_nothing(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "ioctl", no)
    monkeypatch.setattr(os, "copy_file_range", full)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    for path in (folder / "a", folder):
        with pytest.raises(SnapshotError, match="No space left") as caught:
            spool.snapshots.copy(path)
        assert caught.value.cause == "disk_full"
    assert spool.names() == []


def test_a_file_that_vanishes_while_its_folder_is_copied_leaves_nothing(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_bytes(b"1")
    copy = spool.snapshots._copy_file

    def vanish(source: Path, target: Path) -> None:
        copy(source, target)
        (folder / "b").unlink()

    monkeypatch.setattr(spool.snapshots, "_copy_file", vanish)
    with pytest.raises(SnapshotError):
        spool.snapshots.copy(folder)
    assert spool.names() == []


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(1 * GIB, GIB // 4), (40 * GIB, 2 * GIB), (1000 * GIB, 4 * GIB)],
)
def test_room_is_left_for_the_journal(
    spool: Spool, tmp_path: Path, total: int, reserve: int
) -> None:
    (tmp_path / "a").write_bytes(b"1" * 1000)
    spool.total, spool.free = total, reserve + 1000
    spool.snapshots.copy(tmp_path / "a")
    spool.free = reserve - 1
    with pytest.raises(SnapshotError, match="kept for metrics") as caught:
        spool.snapshots.copy(tmp_path / "a")
    assert caught.value.cause == "no_room_for_files"
    assert len(spool.names()) == 1


def test_the_size_of_the_file_counts(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "ioctl", no)
    (tmp_path / "a").write_bytes(b"1" * 1000)
    spool.total, spool.free = 40 * GIB, 2 * GIB + 999
    with pytest.raises(SnapshotError):
        spool.snapshots.copy(tmp_path / "a")
    assert spool.names() == []


def test_the_reserve_can_be_set() -> None:
    assert read_reserve({}) is None
    assert read_reserve({"TRAINBUS_SPOOL_RESERVE": "0"}) == 0
    assert read_reserve({"TRAINBUS_SPOOL_RESERVE": "1000"}) == 1000
    with pytest.raises(ConfigError, match="TRAINBUS_SPOOL_RESERVE is a number of bytes"):
        read_reserve({"TRAINBUS_SPOOL_RESERVE": "1 GiB"})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("last.pt", "last.pt"),
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("größe µ", "gr-e-"),
        ("", "file"),
        ("..", "file"),
        ("a" * 500 + ".pt", "a" * 97 + ".pt"),
    ],
)
def test_names_are_made_safe(text: str, name: str) -> None:
    assert safe_name(text) == name
