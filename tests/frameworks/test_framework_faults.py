"""A training of any framework: asked to stop, killed, and with a bus that cannot be used."""

from __future__ import annotations

import signal
from collections.abc import Mapping

import pytest

from tests.fixtures.frameworks import FrameworkRoad
from tests.fixtures.processes import wait_until

END = """
with open("truth.json", "w") as file:
    json.dump({"steps": steps}, file)
"""

LIGHTNING = """
import json
import time
import torch
import lightning.pytorch as pl
from publishers.integrations.lightning import TrainbusLogger

steps = 0

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, number):
        global steps
        steps += 1
        time.sleep(0.01)
        loss = self.layer(batch).pow(2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

bus = TrainbusLogger(run_id="r1")
pl.Trainer(
    max_epochs=1, logger=bus, callbacks=[bus.stop_callback()], accelerator="cpu",
    log_every_n_steps=1, enable_progress_bar=False, enable_checkpointing=False,
).fit(Model(), torch.utils.data.DataLoader(torch.randn(STEPS, 4)))
"""

TRANSFORMERS = """
import json
import time
import torch
import transformers
from publishers.integrations.transformers import TrainbusCallback

steps = 0

class Slow(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        global steps
        steps += 1
        time.sleep(0.01)

config = transformers.BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
data = [{"input_ids": torch.randint(0, 20, (6,)), "labels": i % 2} for i in range(16)]
args = transformers.TrainingArguments(
    "out", max_steps=STEPS, logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
    save_strategy="no", per_device_train_batch_size=1,
)
transformers.Trainer(
    transformers.BertForSequenceClassification(config), args, train_dataset=data,
    callbacks=[TrainbusCallback(run_id="r1"), Slow()],
).train()
"""

KERAS = """
import json
import time
import numpy as np
import keras
from publishers.integrations.keras import TrainbusCallback

steps = 0

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        global steps
        steps += 1
        time.sleep(0.01)

model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mse")
x = np.random.rand(STEPS, 4)
model.fit(
    x, x.sum(1), epochs=1, batch_size=1, verbose=0,
    callbacks=[TrainbusCallback(run_id="r1", batches=True), Slow()],
)
"""

PROGRAMS = {"lightning": LIGHTNING, "transformers": TRANSFORMERS, "keras": KERAS}

UNUSABLE: dict[str, Mapping[str, str]] = {
    "spool": {"TRAINBUS_SPOOL": "/proc/no-such-folder"},
    "rank": {"TRAINBUS_RANK": "first"},
}


def program(framework: str, steps: int) -> str:
    return PROGRAMS[framework].replace("STEPS", str(steps)) + END


@pytest.mark.parametrize("framework", PROGRAMS)
def test_a_run_that_is_asked_to_stop_ends_its_training(
    framework_road: FrameworkRoad, framework: str
) -> None:
    process = framework_road.start(program(framework, 6000))
    wait_until(framework_road.points, 60.0, "the first points")
    road = framework_road.road
    stop = road.processes.trainbus("stop", "r1", environ=road.environ)
    assert stop.wait(30.0) == 0, stop.printed()

    assert process.wait(60.0) == 0, process.printed()
    assert 0 < framework_road.truth()["steps"] < 6000
    assert framework_road.wait_ends() == [("completed", "")]


@pytest.mark.parametrize("framework", PROGRAMS)
def test_a_training_that_is_killed_keeps_what_it_logged(
    framework_road: FrameworkRoad, framework: str
) -> None:
    process = framework_road.start(program(framework, 6000))
    wait_until(lambda: len(framework_road.points()) > 20, 60.0, "points")
    process.send_signal(signal.SIGKILL)

    ((status, _),) = framework_road.wait_ends()
    assert status == "killed"


@pytest.mark.parametrize("framework", PROGRAMS)
def test_a_training_that_is_interrupted_has_been_killed(
    framework_road: FrameworkRoad, framework: str
) -> None:
    process = framework_road.start(program(framework, 6000))
    wait_until(framework_road.points, 60.0, "the first points")
    process.send_signal(signal.SIGINT)

    assert process.wait(60.0) != 0
    ((status, error),) = framework_road.wait_ends()
    assert (status, error) == ("killed", "KeyboardInterrupt")


@pytest.mark.parametrize("fault", UNUSABLE)
@pytest.mark.parametrize("framework", PROGRAMS)
def test_a_bus_that_cannot_be_used_is_warned_about_and_the_training_goes_on(
    framework_road: FrameworkRoad, framework: str, fault: str
) -> None:
    process = framework_road.start(program(framework, 20), environ=UNUSABLE[fault])
    assert process.wait(120.0) == 0, process.printed()
    assert framework_road.truth()["steps"] == 20
    # Said once, not at every step.
    assert 1 <= process.stderr.count("trainbus:") <= 3, process.printed()


def test_a_crash_of_the_program_is_the_error_of_its_run(framework_road: FrameworkRoad) -> None:
    broken = KERAS.replace("time.sleep(0.01)", "raise RuntimeError('no more memory')")
    process = framework_road.start(broken.replace("STEPS", "20"))
    assert process.wait(120.0) == 1
    assert framework_road.wait_ends() == [("failed", "RuntimeError: no more memory")]
