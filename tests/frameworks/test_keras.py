"""Keras on the torch backend, with what its own History says."""

from __future__ import annotations

from tests.fixtures.frameworks import FrameworkRoad, points_of

TRAIN = """
import json
import numpy as np
import keras
from publishers.integrations.keras import TrainbusCallback

keras.utils.set_random_seed(1)
x = np.random.rand(32, 4)
y = x.sum(1)
schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
model.compile(optimizer=keras.optimizers.Adam(schedule), loss="mse", metrics=["mae"])
batches = []
rates = []

class Truth(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        batches.append(dict(logs))

    def on_epoch_end(self, epoch, logs=None):
        rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))

callback = TrainbusCallback(run_id="k1", batches=True)
history = model.fit(
    x, y, batch_size=8, epochs=3, validation_split=0.25, verbose=0, callbacks=[callback, Truth()]
)
tested = model.evaluate(x, y, verbose=0, callbacks=[callback], return_dict=True)
truth = {"history": history.history, "batches": batches, "rates": rates, "tested": tested}
with open("truth.json", "w") as file:
    json.dump(truth, file)
"""


def test_what_keras_trains_arrives_as_its_history_says(framework_road: FrameworkRoad) -> None:
    truth = framework_road.run(TRAIN)
    assert framework_road.wait_ends(2) == [("completed", "")] * 2

    history = truth["history"]
    assert len(history["loss"]) == 3
    names = {"loss": "train/loss", "mae": "train/mae", "val_loss": "val/loss", "val_mae": "val/mae"}
    assert history.keys() == names.keys()
    rows = [
        (epoch, {**{name: history[key][epoch] for key, name in names.items()}, "lr": rate})
        for epoch, rate in enumerate(truth["rates"])
    ]
    rows += [
        (number, {f"batch/{key}": value for key, value in logs.items()})
        for number, logs in enumerate(truth["batches"])
    ]
    rows.append((2, {f"test/{key}": value for key, value in truth["tested"].items()}))
    assert framework_road.points() == points_of(rows)


def test_the_model_and_the_optimizer_are_params(framework_road: FrameworkRoad) -> None:
    framework_road.run(TRAIN)
    framework_road.wait_ends(2)

    params = {data.section: data.params for data in framework_road.data("params")}
    assert params["General"]["epochs"] == 3
    assert params["General"]["parameters"] == 19
    assert params["optimizer"]["name"] == "adam"
    assert [layer["class_name"] for layer in params["model"]["layers"]] == [
        "InputLayer",
        "Dense",
        "Dense",
    ]
    assert {event.run for event in framework_road.events()} == {"k1"}
