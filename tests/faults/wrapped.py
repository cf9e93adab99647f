"""A training process under ``trainbus run`` that ends in the way it is told to."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import publishers


def main() -> None:
    how, *rest = sys.argv[1:]
    run = publishers.start_run()
    run.log({"loss": 0.5}, step=1)
    print("training", flush=True)
    if how == "exit":
        sys.exit(int(rest[0]))
    if how == "hard-exit":
        os._exit(int(rest[0]))
    if how == "raise":
        raise ValueError("the loss is no number")
    if how == "finish":
        run.finish("completed")
        sys.exit(int(rest[0]))
    if how == "oom":
        # As the kernel would: its counter first seen by who looks after the end.
        Path(rest[0]).write_text("oom_kill 6\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "until-stopped":
        deadline = time.monotonic() + 60
        while not run.should_stop and time.monotonic() < deadline:
            time.sleep(0.05)
    if how == "sleep":
        time.sleep(60)


if __name__ == "__main__":
    main()
