"""A training process that goes on until it is asked to stop, and tells when it saw that."""

from __future__ import annotations

import json
import sys
import time

import publishers

LONGEST_SECONDS = 60.0
STEPS_A_LINE = 50
"""A second: in the time between two lines it looks whether it is to stop."""


def main() -> None:
    run = publishers.start_run(project="faults", run_id=sys.argv[1])
    print("started", flush=True)
    deadline = time.monotonic() + LONGEST_SECONDS
    step = 0
    while not run.should_stop and time.monotonic() < deadline:
        run.log({"loss": 0.1})
        step += 1
        if step % STEPS_A_LINE == 0:
            print("going on", flush=True)
        time.sleep(0.02)
    seen_at = time.time()
    notice = run._stop_sign.notice
    asked_at = notice.time if notice is not None else None
    print(json.dumps({"reason": run.stop_reason, "seen_at": seen_at, "asked_at": asked_at}))
    run.finish(timeout=float(sys.argv[2]))


if __name__ == "__main__":
    main()
