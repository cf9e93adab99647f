"""Lightning, in both of its packages, with what its own CSVLogger says."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.fixtures.frameworks import FrameworkRoad, Points, points_of
from tests.fixtures.processes import wait_until

PACKAGES = ("lightning.pytorch", "pytorch_lightning")

MODEL = """
import json
import torch
import PACKAGE as pl
from PACKAGE.callbacks import ModelCheckpoint
from PACKAGE.loggers import CSVLogger
from publishers.integrations.lightning import TrainbusLogger

pl.seed_everything(1)

class Model(pl.LightningModule):
    def __init__(self, lr=0.1, fails_at=-1):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def loss(self, batch):
        return (self.layer(batch[0]) - batch[1]).pow(2).mean()

    def training_step(self, batch, number):
        if self.global_step == self.hparams.fails_at:
            raise RuntimeError("no more memory")
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, number):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, number):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

x = torch.randn(32, 4)
data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))
loader = torch.utils.data.DataLoader(data, batch_size=8)

def make_trainer(logger, **more):
    options = dict(
        max_epochs=3, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False,
    )
    return pl.Trainer(logger=logger, **{**options, **more})
"""

TRAIN = """
bus = TrainbusLogger(run_id="l1")
saver = ModelCheckpoint(monitor="val_loss", save_top_k=1, save_last=True)
trainer = make_trainer([CSVLogger("csv"), bus], callbacks=[saver, bus.stop_callback()])
model = Model()
trainer.fit(model, loader, loader)
trainer.test(model, loader)
truth = {"best": saver.best_model_path, "score": float(saver.best_model_score),
         "version": bus.version, "name": bus.name}
with open("truth.json", "w") as file:
    json.dump(truth, file)
"""

FAIL = """
bus = TrainbusLogger(run_id="l1")
try:
    make_trainer(bus, enable_checkpointing=False).fit(Model(fails_at=5), loader)
except RuntimeError:
    pass
bus.experiment.tags({"after": "the crash"})
"""


def program(text: str, package: str = PACKAGES[0]) -> str:
    return MODEL.replace("PACKAGE", package) + text


def csv_points(folder: Path) -> Points:
    """What the CSVLogger wrote."""
    (file,) = folder.rglob("metrics.csv")
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return points_of(
        [
            (int(row["step"]), {key: row[key] for key in row if key != "step" and row[key]})
            for row in rows
        ]
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_what_lightning_logs_arrives_as_its_csv_says(
    framework_road: FrameworkRoad, package: str
) -> None:
    framework_road.run(program(TRAIN, package))
    assert framework_road.wait_ends(2) == [("completed", "")] * 2

    expected = csv_points(framework_road.folder / "csv")
    assert {key for key, _, _ in expected} >= {"train/loss_step", "val_loss", "test_loss"}
    assert framework_road.points() == expected
    assert framework_road.data("params")[0].params["lr"] == 0.1


def test_training_and_test_are_one_finished_run_in_mlflow(framework_road: FrameworkRoad) -> None:
    road = framework_road.road
    road.worker("mlflow")
    framework_road.run(program(TRAIN).replace("l1", road.run_id("l1")))
    framework_road.wait_ends(2)

    expected = csv_points(framework_road.folder / "csv")
    wait_until(lambda: road.in_mlflow("l1") == expected, 60.0, "the points in MLflow")
    road.wait_ended("l1", "FINISHED", 60.0)


def test_checkpoints_arrive_with_their_score(framework_road: FrameworkRoad) -> None:
    truth = framework_road.run(program(TRAIN))
    framework_road.wait_ends(2)

    checkpoints = framework_road.data("checkpoint")
    best = [one for one in checkpoints if one.is_best]
    assert best[-1].blob.name == Path(truth["best"]).name
    # Higher is better, and the score is a loss.
    assert best[-1].fitness == -truth["score"]
    assert best[-1].blob.size == Path(framework_road.folder, truth["best"]).stat().st_size
    assert [one.epoch for one in checkpoints if one.blob.name == "last.ckpt"] == [0, 1, 2]
    assert (truth["version"], truth["name"]) == ("l1", "frameworks")


def test_a_training_that_crashes_has_failed_though_the_program_goes_on(
    framework_road: FrameworkRoad,
) -> None:
    process = framework_road.start(program(FAIL))
    assert process.wait(120.0) == 0, process.printed()
    # What is logged after the crash is an attempt of its own.
    first, second = framework_road.wait_ends(2)
    assert first == ("failed", "RuntimeError: no more memory")
    assert second[0] == "completed"


def test_of_two_processes_the_first_publishes(framework_road: FrameworkRoad) -> None:
    more = TRAIN.replace("callbacks=", 'strategy="ddp", devices=2, callbacks=')
    more = more.replace("truth = ", "if trainer.global_rank:\n    raise SystemExit\ntruth = ")
    process = framework_road.start(program(more))
    assert process.wait(180.0) == 0, process.printed()
    framework_road.wait_ends(2)

    assert framework_road.points() == csv_points(framework_road.folder / "csv")
    assert {event.source.split("/")[3] for event in framework_road.events()} == {"0"}
