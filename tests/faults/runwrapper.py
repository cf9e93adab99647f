"""``trainbus run`` with a counter of OOM kills that a test can write: COUNTER, then arguments."""

from __future__ import annotations

import sys
from pathlib import Path

from bus.cli.main import main
from publishers.wrapper import run


def start() -> None:
    counter, *arguments = sys.argv[1:]
    vars(run)["counter_of"] = lambda: Path(counter)
    main(["run", *arguments])


if __name__ == "__main__":
    start()
