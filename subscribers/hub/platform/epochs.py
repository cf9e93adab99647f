"""When an epoch is complete, and what it holds: from rows of metrics in any order. Pure.

The bus has rows: one ``log()`` call each. Platform wants one ``epoch_end`` for an epoch, with all
metrics of it. Which epoch a row belongs to:

- the value of its key ``epoch``, where it has one;
- else its step. Once a run has named an epoch, a row without that key belongs to the next that is
  named: a training that logs every step and names the epoch in its evaluation is shown by epochs.

An epoch is **sent**

- as soon as it has all that the epoch before it had, so that nobody waits a whole epoch to see it;
- else when something comes that follows it: a later epoch, the checkpoint of one, the end of
  training, or a quiet time.

What comes for an epoch that was sent sends it again, whole as far as its metrics are still held
here: those of the last one are. Nothing is left out but rows of an earlier attempt for epochs that
a later one has trained anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field, structs

from subscribers.hub.platform.rows import Row
from subscribers.hub.platform.values import Value

__all__ = ["Epoch", "Epochs"]


class Epoch(Struct):
    """One epoch and what is known of it.

    Attributes:
        number: From 0.
        fitness: What the training judges its weights by; None when not known.
        best_fitness: The best when the last of it came, it included.
        system: The readings of that time.
    """

    number: int
    metrics: dict[str, Value] = field(default_factory=dict)
    fitness: Value = None
    best_fitness: Value = None
    system: dict[str, Any] = field(default_factory=dict)

    def copy(self) -> Epoch:
        """An independent twin."""
        return structs.replace(self, metrics=dict(self.metrics))


class Epochs(Struct, omit_defaults=True):
    """The epochs of one run. What a method returns is to be sent, in this order.

    Attributes:
        pending: The one that is under way.
        last: The one that was sent last.
        keys: The metrics that it had.
        has_fitness: It had a fitness too.
        first: The first epoch of this attempt.
        is_named: Rows have named their epoch.
        loose: Values of rows that belong to the next named one.
        best_fitness: The highest so far, or what the training calls so.
        best_epoch: Where that was.
        system: The latest readings.
    """

    pending: Epoch | None = None
    last: Epoch | None = None
    keys: list[str] = field(default_factory=list)
    has_fitness: bool = False
    first: int | None = None
    is_named: bool = False
    loose: dict[str, Value] = field(default_factory=dict)
    best_fitness: Value = None
    best_epoch: int | None = None
    system: dict[str, Any] = field(default_factory=dict)

    def row(self, row: Row) -> list[Epoch]:
        """A row of the attempt under way."""
        if row.named is None and self.is_named:
            self.loose.update(row.metrics)
            return []
        if row.named is not None and not self.is_named:
            self._begin_naming()
        joined = {**self.loose, **row.metrics}
        self.loose = {}
        self.judge(row.number, row.fitness, row.best)
        return self._add(row.number, joined, row.fitness)

    def late_row(self, row: Row) -> list[Epoch]:
        """A row of an earlier attempt: left out where the later one has trained the epoch anew."""
        if self.first is not None and row.number >= self.first:
            return []
        return [self._new(row.number, row.metrics, row.fitness)]

    def checkpoint(self, number: int, fitness: Value) -> list[Epoch]:
        """Weights of an epoch were saved: those before it are over, and its fitness is known.

        The epoch itself need not be over: trainings save before they log their evaluation.
        """
        self.judge(number, fitness)
        done = self.close() if self.pending is not None and self.pending.number < number else []
        for epoch in (self.pending, self.last):
            if epoch is not None and epoch.number == number:
                # The last one is not sent again for it alone: every checkpoint would do that.
                self._merge(epoch, {}, fitness)
        return [*done, *self._close_if_whole()]

    def close(self) -> list[Epoch]:
        """What follows is no part of the epoch under way."""
        if self.pending is None:
            return []
        self.last, self.pending = self.pending, None
        self._expect(self.last)
        return [self.last.copy()]

    def end(self) -> list[Epoch]:
        """Training has ended: whatever is left is sent."""
        loose, self.loose = self.loose, {}
        if loose and self.pending is not None:
            self._merge(self.pending, loose, None)
        elif loose and self.last is not None and self._merge(self.last, loose, None):
            return [self.last.copy()]
        return self.close()

    def restart(self) -> list[Epoch]:
        """A new attempt begins; it may train epochs anew."""
        done = self.end()
        self.last, self.first = None, None
        return done

    def judge(self, number: int, fitness: Value, best: Value = None) -> None:
        """Note a fitness, and what the training says is the best so far."""
        if best is not None:
            self.best_fitness = best
            if fitness == best:
                self.best_epoch = number
        elif fitness is not None and (self.best_fitness is None or fitness > self.best_fitness):
            self.best_fitness, self.best_epoch = fitness, number

    @property
    def is_partial(self) -> bool:
        """More is expected of the epoch under way, by what the one before it had."""
        return self.pending is not None and bool(self.keys)

    def _expect(self, epoch: Epoch) -> None:
        """The next epoch is complete when it has what this one has."""
        self.keys = sorted(epoch.metrics)
        self.has_fitness = epoch.fitness is not None

    def _begin_naming(self) -> None:
        """What was taken for epochs so far were steps."""
        self.is_named = True
        if self.pending is not None:
            self.loose = self.pending.metrics
        self.pending = self.last = self.first = None
        self.keys = []

    def _add(self, number: int, metrics: Mapping[str, Value], fitness: Value) -> list[Epoch]:
        if self.first is None:
            self.first = number
        current = self.pending or self.last
        if current is None or number > current.number:
            done = self.close()
            self.pending = self._new(number, metrics, fitness)
            return [*done, *self._close_if_whole()]
        if self.pending is not None and number == self.pending.number:
            self._merge(self.pending, metrics, fitness)
            return self._close_if_whole()
        if self.last is not None and number == self.last.number:
            is_new = self._merge(self.last, metrics, fitness)
            self._expect(self.last)
            return [self.last.copy()] if is_new else []
        return [self._new(number, metrics, fitness)]

    def _new(self, number: int, metrics: Mapping[str, Value], fitness: Value) -> Epoch:
        return Epoch(number, dict(metrics), fitness, self.best_fitness, self.system)

    def _merge(self, epoch: Epoch, metrics: Mapping[str, Value], fitness: Value) -> bool:
        """Take in more of an epoch; whether any of it is new."""
        merged = {**epoch.metrics, **metrics}
        fitness = epoch.fitness if fitness is None else fitness
        if (merged, fitness) == (epoch.metrics, epoch.fitness):
            return False
        epoch.metrics, epoch.fitness = merged, fitness
        epoch.best_fitness, epoch.system = self.best_fitness, self.system
        return True

    def _close_if_whole(self) -> list[Epoch]:
        epoch = self.pending
        if epoch is None or not self.keys or not epoch.metrics.keys() >= set(self.keys):
            return []
        return self.close() if epoch.fitness is not None or not self.has_fitness else []
