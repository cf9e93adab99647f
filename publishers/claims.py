"""Which of the runs of a command under ``trainbus run`` is whose.

``trainbus run`` makes one run id and cannot know what the command starts. The first training takes
the id, the second, as in a script of several, takes ``ID~2``, and so on. Who took which stands in
the spool: a file for each, there as a whole or not at all, whose text is the claimant. The ranks of
one torchrun claim together and come to the same file.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from bus.topics import encode_level

__all__ = ["claim_run", "forget_claims"]

_FOLDER = "claims"
_MOST = 100_000


def claim_run(spool: Path, run: str, claimant: str = "") -> str:
    """The run id for a training of a command. Never raises.

    Args:
        spool: Where the claims are.
        run: The id that ``trainbus run`` made.
        claimant: Who asks: the same one gets the same id again; empty for one that asks once.

    Returns:
        The id; ``run`` itself when the spool cannot be written, since nothing is recorded then.
    """
    own = claimant or f"{os.getpid()}-{os.urandom(8).hex()}"
    with suppress(OSError):
        folder = _folder(spool, run)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".{os.getpid()}-{os.urandom(8).hex()}"
        draft.write_text(own)
        try:
            for number in range(1, _MOST):
                if _is_ours(folder / str(number), draft, own):
                    return run if number == 1 else f"{run}~{number}"
        finally:
            draft.unlink(missing_ok=True)
    return run


def forget_claims(spool: Path, run: str) -> None:
    """The command has ended: nobody claims any more. Never raises."""
    shutil.rmtree(_folder(spool, run), ignore_errors=True)


def _folder(spool: Path, run: str) -> Path:
    return spool / _FOLDER / encode_level(run, "run")


def _is_ours(claim: Path, draft: Path, own: str) -> bool:
    try:
        claim.hardlink_to(draft)
    except FileExistsError:
        return claim.read_text() == own
    return True
