"""A training process for Platform: epochs and weights until it is asked to stop.

``platform_trainer.py RUN FOLDER``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import publishers

LONGEST_SECONDS = 90.0


def main() -> None:
    run_id, folder = sys.argv[1:]
    params = {"epochs": 1000, "device": "cpu", "model": "yolo11n.yaml"}
    run = publishers.start_run(project="me/road", name="road", run_id=run_id, params=params)
    deadline = time.monotonic() + LONGEST_SECONDS
    epoch = 0
    while not run.should_stop and time.monotonic() < deadline:
        run.log({"train/loss": 1.0 / (epoch + 1)}, step=epoch)
        run.log({"metrics/acc": epoch / 1000, "fitness": epoch / 1000}, step=epoch)
        print("epoch", epoch, flush=True)
        epoch += 1
        time.sleep(0.2)
    weights = Path(folder) / "best.pt"
    weights.write_bytes(b"the best weights")
    run.checkpoint(weights, epoch=epoch - 1, best=True, final=True)
    print(json.dumps({"epochs": epoch, "reason": run.stop_reason}), flush=True)
    sys.exit(0 if run.finish(timeout=30.0) else 1)


if __name__ == "__main__":
    main()
