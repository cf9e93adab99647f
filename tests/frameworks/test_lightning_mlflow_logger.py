"""Lightning's own MLFlowLogger, unchanged, over the bus: the points its CSVLogger has as well."""

from __future__ import annotations

import csv
import sysconfig

import pytest

from tests.fixtures.frameworks import INSTALL_SECONDS, FrameworkRoad, points_of

PROGRAM = """
import json, sys
# MLflow comes from the environment of the tests; all else is that of the frameworks.
sys.path.append(PACKAGES)
import torch
import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger

class Model(pl.LightningModule):
    def __init__(self, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, number):
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

loader = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.randn(32, 2)), batch_size=8
)
logger = MLFlowLogger(experiment_name="frameworks", run_name="own", log_model=True)
pl.Trainer(
    max_epochs=2, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
    enable_model_summary=False, logger=[CSVLogger("csv"), logger],
).fit(Model(), loader)
with open("truth.json", "w") as file:
    json.dump({"run": logger.run_id}, file)
"""


@pytest.mark.slow
@pytest.mark.timeout(INSTALL_SECONDS)
def test_the_mlflow_logger_of_lightning_publishes_the_same_points(
    framework_road: FrameworkRoad,
) -> None:
    road = framework_road
    program = PROGRAM.replace("PACKAGES", repr(sysconfig.get_path("purelib")))
    environ = {"MLFLOW_TRACKING_URI": "trainbus:", "MLFLOW_DISABLE_TELEMETRY": "true"}
    truth = road.run(program, environ)
    assert road.wait_ends() == [("completed", "")]
    (file,) = road.folder.rglob("metrics.csv")
    with file.open() as lines:
        rows = [(int(row.pop("step")), row) for row in csv.DictReader(lines)]
    wanted = points_of((step, {"train/loss": float(row["train/loss"])}) for step, row in rows)
    assert sum(wanted.values()) == 8
    found = {
        (key, step, round(value, 5)) for key, step, value in road.points() if key == "train/loss"
    }
    assert found == {(key, step, round(value, 5)) for key, step, value in wanted}
    (started,) = road.events("run_started")
    assert (started.run, started.run_name) == (truth["run"], "own")
    assert road.data("params")[0].params == {"lr": "0.1"}
    assert any(data.path.endswith(".ckpt") for data in road.data("artifact"))
