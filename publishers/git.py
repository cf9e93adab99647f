"""The state of the working tree, read from its files: starting a run starts no other program.

Whether there are uncommitted changes takes git itself to tell, and is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from bus.kinds import Git

__all__ = ["read_git"]

_MAX_LEVELS = 20
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_REMOTE = re.compile(r'\[remote "origin"\][^\[]*?^\s*url\s*=\s*(\S+)', re.MULTILINE | re.DOTALL)
_MAX_BYTES = 4 * 1024 * 1024


def read_git(start: Path) -> Git | None:
    """The commit, branch and origin of the repository around a folder; None when there is none."""
    try:
        for folder in (start, *start.parents)[:_MAX_LEVELS]:
            dot_git = folder / ".git"
            if dot_git.exists():
                return _read(dot_git)
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    return None


def _read(dot_git: Path) -> Git | None:
    if dot_git.is_file():
        # A worktree or submodule: the file says where its state is.
        place = _text(dot_git).removeprefix("gitdir:").strip()
        dot_git = dot_git.parent / place
    common = dot_git
    if (dot_git / "commondir").is_file():
        common = dot_git / _text(dot_git / "commondir").strip()
    head = _text(dot_git / "HEAD").strip()
    branch = ""
    commit = head
    if head.startswith("ref:"):
        ref = head.removeprefix("ref:").strip()
        branch = ref.removeprefix("refs/heads/")
        commit = _commit_of(ref, dot_git, common)
    if not _COMMIT.fullmatch(commit):
        return None
    return Git(commit=commit, branch=branch, remote=_remote(common))


def _commit_of(ref: str, *folders: Path) -> str:
    for folder in folders:
        if (folder / ref).is_file():
            return _text(folder / ref).strip()
    packed = folders[-1] / "packed-refs"
    if packed.is_file():
        for line in _text(packed).splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return commit
    return ""


def _remote(common: Path) -> str:
    config = common / "config"
    match = _REMOTE.search(_text(config)) if config.is_file() else None
    # An address may carry a password, which is nobody's business.
    return re.sub(r"://[^/@]*@", "://", match[1]) if match else ""


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES).decode()
