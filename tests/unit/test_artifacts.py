"""The artifact store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.artifacts import ArtifactStore, Manifest, ManifestFile, StoredBlob, fetch, read_manifest
from bus.errors import ConfigError, StoreError
from bus.kinds import Blob


def as_blob(stored: StoredBlob, name: str = "x", *, is_folder: bool = False) -> Blob:
    return Blob(name=name, size=stored.size, sha256=stored.sha256, is_folder=is_folder)


def all_files(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "a store"


@pytest.fixture
def store(root: Path) -> ArtifactStore:
    return ArtifactStore(root.as_uri())


def test_a_file_is_kept_under_its_content(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    stored = store.put_file(path)
    assert stored == StoredBlob((root / sha256[:2] / sha256).as_uri(), 7, sha256)
    assert all_files(root) == {f"{sha256[:2]}/{sha256}": b"weights"}
    target = fetch(stored.url, as_blob(stored), tmp_path / "new" / "copy.pt")
    assert target.read_bytes() == b"weights"


@pytest.mark.parametrize("content", [b"", b"x" * 3_000_000])
def test_a_file_of_any_size_comes_back(
    store: ArtifactStore, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    stored = store.put_file(path)
    assert fetch(stored.url, as_blob(stored), tmp_path / "out").read_bytes() == content


def test_storing_the_same_bytes_again_writes_nothing(
    store: ArtifactStore, root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"same")
    first = store.put_file(path)
    (kept,) = (p for p in root.rglob("*") if p.is_file())
    inode = kept.stat().st_ino
    path.rename(tmp_path / "other name")
    assert store.put_file(tmp_path / "other name") == first
    assert kept.stat().st_ino == inode


def test_a_blob_cut_short_is_stored_again(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"whole")
    stored = store.put_file(path)
    (kept,) = (p for p in root.rglob("*") if p.is_file())
    kept.write_bytes(b"wh")
    with pytest.raises(StoreError) as caught:
        fetch(stored.url, as_blob(stored), tmp_path / "out")
    assert caught.value.is_damaged
    assert not (tmp_path / "out").exists()
    store.put_file(path)
    assert kept.read_bytes() == b"whole"


def test_a_failed_upload_leaves_nothing_behind(
    store: ArtifactStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"bytes")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match="No space left") as caught:
        store.put_file(path)
    assert not caught.value.is_missing
    assert all_files(root) == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    files=st.dictionaries(
        st.lists(st.sampled_from(["a", "b c", "ü", "d:e", "%20"]), min_size=1, max_size=3).map(
            lambda parts: "/".join([*(f"{part}.d" for part in parts[:-1]), parts[-1]])
        ),
        st.binary(max_size=20),
        max_size=5,
    )
)
def test_a_folder_comes_back_as_it_was_and_always_has_the_same_manifest(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    base = tmp_path_factory.mktemp("folder")
    store = ArtifactStore((base / "store").as_uri())
    for number, order in enumerate([list(files), sorted(files, reverse=True)]):
        folder = base / f"source{number}"
        folder.mkdir()
        for name in order:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
    stored = store.put_folder(base / "source0")
    assert store.put_folder(base / "source1") == stored
    assert stored.size == sum(map(len, files.values()))
    target = fetch(stored.url, as_blob(stored, is_folder=True), base / "out")
    assert all_files(target) == files
    assert [file.path for file in read_manifest(stored.url, stored.sha256).files] == sorted(files)


def test_an_empty_folder_is_kept_but_empty_folders_inside_are_not(
    store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    stored = store.put_folder(tmp_path / "folder")
    target = fetch(stored.url, as_blob(stored, is_folder=True), tmp_path / "out")
    assert target.is_dir()
    assert list(target.iterdir()) == []


def test_a_link_to_a_file_is_stored_as_the_file(store: ArtifactStore, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "epoch3.pt").write_bytes(b"w")
    (folder / "best.pt").symlink_to("epoch3.pt")
    stored = store.put_folder(folder)
    target = fetch(stored.url, as_blob(stored, is_folder=True), tmp_path / "out")
    assert all_files(target) == {"best.pt": b"w", "epoch3.pt": b"w"}
    assert not (target / "best.pt").is_symlink()


def test_a_name_that_is_not_utf8_is_kept_as_far_as_it_can_be_written(
    store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / os.fsdecode(b"a\xffb")).write_bytes(b"w")
    stored = store.put_folder(tmp_path / "folder")
    target = fetch(stored.url, as_blob(stored, is_folder=True), tmp_path / "out")
    assert all_files(target) == {"a\\xffb": b"w"}


@pytest.mark.parametrize("to", ["inner", "nowhere", "."])
def test_a_link_to_a_folder_or_to_nothing_is_refused(
    store: ArtifactStore, tmp_path: Path, to: str
) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "link").symlink_to(to)
    with pytest.raises(StoreError, match="link to a folder or to nothing"):
        store.put_folder(folder)


def test_a_pipe_is_refused_and_not_read_for_ever(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        store.put_folder(tmp_path / "folder")


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "", "a//b", ".", "a\0b"])
def test_a_manifest_cannot_write_outside_its_folder(
    store: ArtifactStore, tmp_path: Path, path: str
) -> None:
    (tmp_path / "file").write_bytes(b"evil")
    file = store.put_file(tmp_path / "file")
    (tmp_path / "manifest").write_bytes(
        msgspec.json.encode(Manifest([ManifestFile(path, 4, file.sha256, file.url)]))
    )
    stored = store.put_file(tmp_path / "manifest")
    with pytest.raises(StoreError, match="leave the folder") as caught:
        fetch(stored.url, as_blob(stored, is_folder=True), tmp_path / "deep" / "out")
    assert caught.value.is_damaged
    assert not (tmp_path / "deep").exists()


def test_a_blob_that_is_gone_is_missing(store: ArtifactStore, root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    stored = store.put_file(tmp_path / "file")
    (kept,) = (p for p in root.rglob("*") if p.is_file())
    kept.unlink()
    with pytest.raises(StoreError) as caught:
        fetch(stored.url, as_blob(stored), tmp_path / "out")
    assert caught.value.is_missing


def test_a_store_that_this_machine_does_not_have_is_not_a_missing_blob(tmp_path: Path) -> None:
    url = (tmp_path / "elsewhere" / "ab" / ("ab" * 32)).as_uri()
    with pytest.raises(StoreError, match="TRAINBUS_STORE") as caught:
        fetch(url, Blob(name="x", size=1, sha256="ab" * 32), tmp_path / "out")
    assert not caught.value.is_missing


def test_a_source_that_is_gone_is_missing(store: ArtifactStore, tmp_path: Path) -> None:
    for put in (store.put_file, store.put_folder):
        with pytest.raises(StoreError) as caught:
            put(tmp_path / "nothing")
        assert caught.value.is_missing


def test_what_is_no_manifest_is_damaged(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"{}")
    stored = store.put_file(tmp_path / "file")
    with pytest.raises(StoreError, match="no manifest") as caught:
        read_manifest(stored.url, stored.sha256)
    assert caught.value.is_damaged


def test_any_fsspec_file_system_will_do(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"a")
    stored = ArtifactStore("memory://test-store").put_folder(folder)
    assert stored.url.startswith("memory://")
    target = fetch(stored.url, as_blob(stored, is_folder=True), tmp_path / "out")
    assert all_files(target) == {"a": b"a"}
    with pytest.raises(StoreError) as caught:
        fetch("memory://test-store/00/nothing", as_blob(stored), tmp_path / "none")
    assert caught.value.is_missing


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_package(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("bus.artifacts.url_to_fs", no_package)
    with pytest.raises(ConfigError, match=r"pip install 'trainbus\[s3\]'"):
        ArtifactStore("s3://bucket/store")


def test_an_unknown_protocol_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="nothing://x"):
        ArtifactStore("nothing://x")
