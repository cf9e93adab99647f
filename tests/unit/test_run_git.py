from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from publishers.git import read_git
from tests.fixtures.missing import missing


def git(folder: Path, *arguments: str) -> str:
    # No repository around the tests, and no settings of the person who runs them.
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environ, check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        missing("git", "install it from your distribution")
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "feature/x")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def test_commit_and_branch_are_read_from_below(repository: Path) -> None:
    below = repository / "a" / "b"
    below.mkdir(parents=True)
    state = read_git(below)
    assert state is not None
    assert state.commit == git(repository, "rev-parse", "HEAD")
    assert state.branch == "feature/x"


def test_packed_references_and_detached_heads_are_read(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "pack-refs", "--all")
    state = read_git(repository)
    assert state is not None
    assert state.commit == commit
    git(repository, "checkout", "-q", "--detach")
    state = read_git(repository)
    assert state is not None
    assert (state.commit, state.branch) == (commit, "")


def test_a_worktree_is_read(repository: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    git(repository, "worktree", "add", "-q", "-b", "other", str(tree))
    state = read_git(tree)
    assert state is not None
    assert (state.commit, state.branch) == (git(repository, "rev-parse", "HEAD"), "other")


def test_the_address_of_origin_is_read_without_its_password(repository: Path) -> None:
    git(repository, "remote", "add", "upstream", "https://example.org/other.git")
    git(repository, "remote", "add", "origin", "https://me:secret@example.org/x.git")
    state = read_git(repository)
    assert state is not None
    assert state.remote == "https://example.org/x.git"


def test_outside_of_a_repository_or_before_its_first_commit_there_is_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    git(folder, "init", "-q")
    assert read_git(folder) is None
    (folder / ".git" / "HEAD").write_bytes(b"\xff\xfe")
    assert read_git(folder) is None
