"""A training run, as the training code sees it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from bus.source import Source
from publishers import exits
from publishers.drops import Drops
from publishers.ending import Ending
from publishers.environment import Place
from publishers.journal.rows import MetricRows
from publishers.launch import ShipperWatch
from publishers.recorder import Recorder
from publishers.records import Records
from publishers.stopping import StopSign

__all__ = ["Run"]


class Run(Records):
    """One training run; :func:`publishers.start_run` makes it.

    Methods may be called from any thread. None of them raises because of the bus, the disk or an
    odd value: what cannot be taken is counted in :attr:`dropped` and warned about once. In a
    forked child the run is inert.

    Of a run of several ranks each writes what it is given. What ranks measure (:meth:`log`,
    :meth:`summary`, :meth:`image`, :meth:`plot`) keeps its name on rank 0 and is
    ``rank{n}/name`` on the others. Each call may choose: with ``rank_zero_only=True`` it does
    nothing on other ranks, with ``all_ranks=True`` all ranks write under the same name.
    """

    def __init__(
        self,
        place: Place,
        source: Source,
        *,
        rows: MetricRows,
        recorder: Recorder,
        drops: Drops,
        ending: Ending,
        watch: ShipperWatch | None,
        stop_sign: StopSign,
    ) -> None:
        super().__init__(place, recorder)
        self._source = source
        self._rows = rows
        self._drops = drops
        self._ending = ending
        self._watch = watch
        self._stop_sign = stop_sign

    @property
    def id(self) -> str:
        """The run's id, the same for all its processes."""
        return self._place.run

    @property
    def project(self) -> str:
        """The project the run belongs to."""
        return self._place.project

    @property
    def name(self) -> str:
        """The name people read."""
        return self._place.name

    @property
    def rank(self) -> int:
        """Rank of this process in the run, from 0."""
        return self._place.rank

    @property
    def attempt(self) -> int:
        """Which try of this rank this is, from 1."""
        return self._place.attempt

    @property
    def source(self) -> str:
        """The CloudEvents source of what this process publishes."""
        return str(self._source)

    @property
    def dropped(self) -> dict[str, int]:
        """How much never reached the bus, by cause (``bad_value``, ``disk_full``, …)."""
        return self._drops.counts()

    @property
    def should_stop(self) -> bool:
        """Whether the run was asked to stop: by ``trainbus stop``, or by a tracker.

        To be asked as often as you like: it looks at the disk twice a second at the most. Once
        true it stays true. What follows from it is up to the training::

            for batch in batches:
                if run.should_stop:
                    break
        """
        return self._stop_sign.notice is not None

    @property
    def stop_reason(self) -> str | None:
        """Why the run is to stop, or who asks where no reason was given; None until it is."""
        notice = self._stop_sign.notice
        return None if notice is None else notice.text

    def log(
        self,
        metrics: Mapping[str, Any],
        step: int | None = None,
        *,
        rank_zero_only: bool = False,
        all_ranks: bool = False,
        at: float | None = None,
    ) -> None:
        """Log metric values of one step: one line in the journal, a few microseconds.

        Args:
            metrics: Values by name: floats, ints, bools, scalars of numpy, 0-d tensors.
            step: Whole number; by default the previous step + 1, from 0.
            rank_zero_only: Other ranks write nothing; the step counts all the same.
            all_ranks: Every rank writes under the same name, instead of ``rank{n}/name``.
            at: When the values were taken, in Unix seconds; by default now.

        Raises:
            EventError: A value cannot be taken, and the run was started with ``strict=True``.
        """
        if rank_zero_only and self._place.rank:
            self._rows.skip(step)
        else:
            self._rows.log(metrics, step, rank_prefix=not all_ranks, at=at)

    def finish(self, status: str = "completed", error: str = "", timeout: float = 10.0) -> bool:
        """End this process's part of the run, and wait until all of it is stored.

        Args:
            status: ``completed``, ``failed`` or ``killed``.
            error: What failed, in words.
            timeout: Seconds to wait at the most. What is not stored by then is delivered by the
                shipper, which goes on by itself.

        Returns:
            Whether the event log has confirmed everything.
        """
        self._ending.end(status, error)
        return self._ending.wait(timeout)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish(exits.status_of_exception(error), exits.describe_exception(error))

    def start(self, started: dict[str, Any], params: Mapping[str, Any] | None) -> None:
        """Write the first records and see to the shipper; ``start_run`` does this.

        Args:
            started: Data of ``run_started``.
            params: The first parameters; None for none.
        """
        self._recorder.attempt("run_started", lambda: self._recorder.record_start(started))
        if params is not None:
            self.params(params)
        exits.watch_over(self._ending)
        if self._watch is not None:
            self._watch.start(is_lead=self._place.is_lead)
