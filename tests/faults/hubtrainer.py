"""A training process for HUB: epochs with metrics and weights, the best in the middle, a final one.

``hubtrainer.py RUN FOLDER EPOCHS PACE``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import publishers


def main() -> None:
    run_id, folder, epochs, pace = sys.argv[1:]
    run = publishers.start_run(
        project="faults",
        name="hub",
        run_id=run_id,
        options={"hub": {"model": "yolo11n.yaml"}},
        params={"epochs": int(epochs), "batch": 8},
    )
    weights = Path(folder) / "last.pt"
    for epoch in range(int(epochs)):
        run.log({"train/loss": 1.0 / (epoch + 1)}, step=epoch)
        weights.write_bytes(f"weights of epoch {epoch}".encode())
        run.checkpoint(weights, epoch=epoch, best=epoch == int(epochs) // 2)
        time.sleep(float(pace))
    run.summary({"model/parameters": 7, "metrics/mAP50-95(B)": 0.5})
    final = weights.with_name("best.pt")
    final.write_bytes(b"the final model")
    run.checkpoint(final, epoch=int(epochs) - 1, final=True)
    sys.exit(0 if run.finish(timeout=30.0) else 1)


if __name__ == "__main__":
    main()
