"""Trains a classifier of handwritten digits on one or several ranks, and publishes all of it.

``python -m publishers.examples.digits`` trains alone. With ``RANK`` and ``WORLD_SIZE`` in the
environment, as torchrun sets them, each rank trains on its own part of the images. After every
epoch the ranks average their parameters, which they exchange as files in ``--work-dir``; rank 0
then evaluates the joint model on images that no rank has seen.

Needs scikit-learn, matplotlib and mlflow: ``pip install 'trainbus[demo]'``.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import publishers

__all__ = ["main"]

CLASSES = list(range(10))
SHOWN_MISTAKES = 4
PIXELS_PER_PIXEL = 16
"""The images have 8 x 8 pixels: too few to look at."""

TUNED = {"epochs", "batch_size", "learning_rate", "hidden", "seed"}

PATIENCE_SECONDS = 60.0
"""How long a rank waits for the parameters of the others before it gives up."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Images:
    """Images as rows of 64 values from 0 to 1, and which digit each shows."""

    pixels: Array
    digits: Array


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits.")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 64], metavar="UNITS")
    parser.add_argument("--checkpoint-every", type=int, default=10, metavar="EPOCHS")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rank", type=int, default=int(os.environ.get("RANK", "0")))
    parser.add_argument("--world", type=int, default=int(os.environ.get("WORLD_SIZE", "1")))
    parser.add_argument("--work-dir", type=Path, default=Path("digits-work"))
    parser.add_argument("--project", default="digits")
    parser.add_argument("--name", default="mlp")
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch_size", "checkpoint_every", "world"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    if not 0 <= options.rank < options.world:
        parser.error(f"--rank must be from 0 to {options.world - 1}")
    return options


def load(seed: int, rank: int, world: int) -> tuple[Images, Images]:
    """The images this rank trains on, and those that all are judged by."""
    pixels, digits = load_digits(return_X_y=True)
    seen, unseen, seen_digits, unseen_digits = train_test_split(
        pixels / 16.0, digits, test_size=0.25, stratify=digits, random_state=seed
    )
    return Images(seen[rank::world], seen_digits[rank::world]), Images(unseen, unseen_digits)


def train_epoch(
    model: MLPClassifier,
    images: Images,
    batch_size: int,
    shuffle: np.random.Generator,
    run: publishers.Run,
    first_step: int,
) -> int:
    """One pass over the images in batches of a new order; gives the step after the last."""
    order = shuffle.permutation(len(images.digits))
    step = first_step
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        pixels, digits = images.pixels[batch], images.digits[batch]
        model.partial_fit(pixels, digits, classes=CLASSES)
        accuracy = accuracy_score(digits, model.predict(pixels))
        run.log({"train/loss": model.loss_, "train/accuracy": accuracy}, step=step)
        step += 1
    return step


def average(model: MLPClassifier, folder: Path, epoch: int, rank: int, world: int) -> None:
    """Replace the parameters by their mean over all ranks.

    Raises:
        TimeoutError: Another rank does not deliver its parameters.
    """
    if world == 1:
        return
    own = [*model.coefs_, *model.intercepts_]
    file = parameter_file(folder, epoch, rank)
    unfinished = file.with_suffix(".tmp.npz")
    np.savez(unfinished, *own)
    unfinished.replace(file)
    # Everybody has read the file of the epoch before the last one: this rank was told so by theirs.
    parameter_file(folder, epoch - 2, rank).unlink(missing_ok=True)
    everybody = [read_parameters(parameter_file(folder, epoch, one)) for one in range(world)]
    for position, values in enumerate(own):
        # In place: the optimizer holds these arrays too.
        values[...] = np.mean([theirs[position] for theirs in everybody], axis=0)


def parameter_file(folder: Path, epoch: int, rank: int) -> Path:
    """Where a rank leaves its parameters for the others."""
    return folder / f"epoch{epoch}-rank{rank}.npz"


def read_parameters(file: Path) -> list[Array]:
    """Wait for the parameters of a rank and read them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {file.name} after {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.002)
    with np.load(file) as stored:
        return [stored[name] for name in stored.files]


def evaluate(
    model: MLPClassifier, unseen: Images, run: publishers.Run, epoch: int, step: int
) -> float:
    """Log how good the joint model is on images it has not seen, and give its accuracy."""
    chances = model.predict_proba(unseen.pixels)
    accuracy = float(accuracy_score(unseen.digits, chances.argmax(axis=1)))
    loss = log_loss(unseen.digits, chances, labels=CLASSES)
    run.log({"val/accuracy": accuracy, "val/loss": loss, "epoch": epoch}, step=step)
    return accuracy


def show(model: MLPClassifier, unseen: Images, run: publishers.Run, step: int) -> None:
    """Log some misclassified digits as images, and the confusion matrix as a plot."""
    guesses = model.predict(unseen.pixels)
    for number, wrong in enumerate(np.flatnonzero(guesses != unseen.digits)[:SHOWN_MISTAKES]):
        small = unseen.pixels[wrong].reshape(8, 8)
        large = np.kron(small, np.ones((PIXELS_PER_PIXEL, PIXELS_PER_PIXEL)))
        title = f"misclassified/{number}"
        run.image(title, f"{unseen.digits[wrong]} taken for {guesses[wrong]}", large, step=step)
    figure = Figure(figsize=(6, 6))
    ConfusionMatrixDisplay.from_predictions(
        unseen.digits, guesses, ax=figure.add_subplot(), colorbar=False
    )
    run.plot("confusion matrix", "unseen digits", figure, step=step)


def save_model(
    model: MLPClassifier, unseen: Images, run: publishers.Run, folder: Path, accuracy: float
) -> None:
    """Log the model as an MLmodel folder, which MLflow can load and serve."""
    import mlflow.sklearn
    import sklearn
    from mlflow.models import infer_signature

    signature = infer_signature(unseen.pixels, model.predict(unseen.pixels))
    finished = copy.copy(model)
    del finished._optimizer  # of no use without training, and no type that MLflow trusts
    mlflow.sklearn.save_model(
        finished,
        folder,
        signature=signature,
        # Named here because MLflow would find it by loading the model in another process.
        pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
    )
    run.model(
        folder,
        name="digits-mlp",
        signature=signature,
        metrics={"accuracy": accuracy},
        registered_name="digits-mlp",
    )


def train(options: argparse.Namespace, run: publishers.Run) -> None:
    """Train for all epochs; rank 0 also judges, shows and saves."""
    images, unseen = load(options.seed, options.rank, options.world)
    model = MLPClassifier(
        hidden_layer_sizes=options.hidden,
        learning_rate_init=options.learning_rate,
        random_state=options.seed,
    )
    shuffle = np.random.default_rng([options.seed, options.rank])
    # By the run's id: what an earlier run left here must not be taken for another rank's.
    folder = options.work_dir / run.id
    folder.mkdir(parents=True, exist_ok=True)
    step, best = 0, 0.0
    for epoch in range(1, options.epochs + 1):
        step = train_epoch(model, images, options.batch_size, shuffle, run, step)
        average(model, folder, epoch, options.rank, options.world)
        if options.rank == 0:
            accuracy = evaluate(model, unseen, run, epoch, step)
            is_last = epoch == options.epochs
            if epoch % options.checkpoint_every == 0 or is_last:
                show(model, unseen, run, step)
                file = folder / f"epoch{epoch}.joblib"
                joblib.dump(model, file)
                run.checkpoint(
                    file, epoch=epoch, fitness=accuracy, best=accuracy > best, final=is_last
                )
            best = max(best, accuracy)
            if is_last:
                run.summary({"accuracy": accuracy, "best_accuracy": best, "steps": step})
                save_model(model, unseen, run, folder / "model", accuracy)
        print(f"epoch {epoch}/{options.epochs} loss {model.loss_:.4f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    options = parse(arguments)
    with publishers.start_run(
        project=options.project,
        name=options.name,
        rank=options.rank,
        world=options.world,
        framework="scikit-learn",
        params={name: value for name, value in vars(options).items() if name in TUNED},
        tags={"data": "sklearn.datasets.load_digits"},
    ) as run:
        train(options, run)


if __name__ == "__main__":
    main()
