"""Transformers' Trainer, with what its own log_history says."""

from __future__ import annotations

from pathlib import Path

from tests.fixtures.frameworks import FrameworkRoad, points_of

TRAIN = """
import json
import torch
import transformers
from publishers.integrations.transformers import TrainbusCallback

transformers.set_seed(1)
config = transformers.BertConfig(
    vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=8,
)
model = transformers.BertForSequenceClassification(config)
data = [
    {"input_ids": torch.randint(0, 20, (6,)), "labels": torch.tensor(number % 2)}
    for number in range(16)
]
args = transformers.TrainingArguments(
    "out", num_train_epochs=2, per_device_train_batch_size=4, logging_steps=1,
    eval_strategy="epoch", save_strategy="epoch", metric_for_best_model="loss",
    load_best_model_at_end=True, learning_rate=0.01, report_to="none", use_cpu=True,
    disable_tqdm=True,
)
callback = TrainbusCallback(run_id="t1")
trainer = transformers.Trainer(
    model, args, train_dataset=data, eval_dataset=data, callbacks=[callback]
)
trainer.train()
best = trainer.state.best_model_checkpoint
trainer.evaluate()
if int(os.environ.get("RANK", 0)) == 0:
    with open("truth.json", "w") as file:
        json.dump({"history": trainer.state.log_history, "best": best}, file)
"""


def named(key: str) -> str:
    return key.replace("eval_", "eval/") if key.startswith("eval_") else f"train/{key}"


def test_what_a_trainer_logs_arrives_as_its_history_says(framework_road: FrameworkRoad) -> None:
    truth = framework_road.run(TRAIN)
    assert framework_road.wait_ends(2) == [("completed", "")] * 2

    assert len(truth["history"]) == 12
    rows = []
    for entry in truth["history"]:
        step = entry.pop("step")
        rows.append((step, {named(key): value for key, value in entry.items()}))
    assert framework_road.points() == points_of(rows)
    assert {event.run for event in framework_road.events()} == {"t1"}


def test_checkpoint_folders_arrive_with_their_metric(framework_road: FrameworkRoad) -> None:
    truth = framework_road.run(TRAIN)
    framework_road.wait_ends(2)

    losses = [entry["eval_loss"] for entry in truth["history"] if "eval_loss" in entry]
    checkpoints = framework_road.data("checkpoint")
    assert [one.blob.name for one in checkpoints] == ["checkpoint-4", "checkpoint-8"]
    assert all(one.blob.is_folder for one in checkpoints)
    assert [one.epoch for one in checkpoints] == [0, 1]
    # Higher is better, and the metric is a loss.
    assert [one.fitness for one in checkpoints] == [-loss for loss in losses[:2]]
    best = [one.blob.name for one in checkpoints if one.is_best]
    assert best[-1] == Path(truth["best"]).name


def test_arguments_and_the_config_of_the_model_are_params(framework_road: FrameworkRoad) -> None:
    framework_road.run(TRAIN)
    framework_road.wait_ends(2)

    params = {data.section: data.params for data in framework_road.data("params")}
    assert params["General"]["per_device_train_batch_size"] == 4
    assert params["General"]["learning_rate"] == 0.01
    assert params["model"]["hidden_size"] == 8


def test_of_two_processes_the_first_publishes(framework_road: FrameworkRoad) -> None:
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    # As PyTorch asks of a program; without it a rank was seen to abort at its exit.
    leave = "torch.distributed.barrier()\ntorch.distributed.destroy_process_group()\n"
    process = framework_road.start(TRAIN + leave, *launch)
    assert process.wait(180.0) == 0, process.printed()
    framework_road.wait_ends(2)

    history = framework_road.truth()["history"]
    losses = [("train/loss", row["step"], row["loss"]) for row in history if "loss" in row]
    found = framework_road.points()
    assert sorted(point for point in found if point[0] == "train/loss") == sorted(losses)
    assert {event.source.split("/")[3] for event in framework_road.events()} == {"0"}
