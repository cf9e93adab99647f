"""The receipt of a run: what was published, and where each event is now.

Pure: what the event log and the sinks say goes in, numbers and gaps come out.

Per source, the published ids are 1 to the last one known: by ``run_finished``, by the log, or by a
sink's marks, whichever is highest. In the log each of them is stored, lost or missing. In a sink
each is exactly one of, the first that fits:

1. *dead*: given up as a dead letter;
2. *lost*: no longer anywhere, and no sink can have it from the log;
3. *not applicable*: of a kind the sink has no use for, or the run is not meant for this sink;
4. *missing*: not applied;
5. *superseded*: left out because a later event takes its place;
6. *delivered*.

So published = stored + lost + missing in the log, and published = delivered + dead + superseded +
not applicable + lost + missing in each sink. Lost and missing ids are the gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bus.idranges import IdRanges
from bus.sinks import SinkContents

__all__ = ["Gap", "Receipt", "SinkFacts", "SinkReceipt", "SourceFacts", "make_receipt"]


@dataclass(slots=True)
class SourceFacts:
    """What the event log says of one source.

    Attributes:
        stored: Ids in the log, the lost ones included.
        lost: Ids that are lost.
        kinds: Per kind, the ids in the log.
        last_id: What its ``run_finished`` says; None while there is none.
    """

    source: str
    stored: IdRanges = field(default_factory=IdRanges)
    lost: IdRanges = field(default_factory=IdRanges)
    kinds: Mapping[str, IdRanges] = field(default_factory=dict)
    last_id: int | None = None


@dataclass(slots=True)
class SinkFacts:
    """What a sink says of the run.

    Attributes:
        kinds: The kinds it has a use for.
        contents: What it holds; None when it has no such run.
        is_wanted: The run is meant for this sink.
        error: Why it cannot be asked; then nothing else counts.
        points_expected: Distinct points of the events it was to take; None when not counted.
    """

    name: str
    kinds: frozenset[str] = frozenset()
    contents: SinkContents | None = None
    is_wanted: bool = True
    error: str | None = None
    points_expected: int | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids of one source that are not where they should be."""

    where: str
    source: str
    ids: IdRanges
    is_lost: bool


@dataclass(slots=True)
class SinkReceipt:
    """Where the events of a run are, as one sink sees it; numbers of events.

    Attributes:
        has_run: The sink knows the run at all.
    """

    name: str
    has_run: bool = True
    delivered: int = 0
    dead: int = 0
    superseded: int = 0
    not_applicable: int = 0
    lost: int = 0
    missing: int = 0
    points_expected: int | None = None
    points_found: int | None = None
    url: str | None = None
    error: str | None = None
    gaps: list[Gap] = field(default_factory=list)

    @property
    def points_missing(self) -> int:
        """Points that should be there and are not; 0 where they cannot be counted."""
        if self.points_expected is None or self.points_found is None:
            return 0
        return max(0, self.points_expected - self.points_found)

    @property
    def is_complete(self) -> bool:
        """The sink answered, and nothing is missing there."""
        return self.error is None and not (self.missing or self.lost or self.points_missing)

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON form of the receipt."""
        if self.error is not None:
            return {"error": self.error}
        return {
            "delivered": self.delivered,
            "dead": self.dead,
            "missing": self.missing,
            "superseded": self.superseded,
            "not_applicable": self.not_applicable,
            "lost": self.lost,
            "points": {"expected": self.points_expected, "found": self.points_found},
            "url": self.url,
        }


@dataclass(slots=True)
class Receipt:
    """The whole receipt.

    Attributes:
        status: How the run ended; None while it goes on.
        points: Metric points in the log, repeated ones included; None when not counted.
        gaps: What the log lacks; each sink has its own.
    """

    run: str
    project: str
    run_name: str
    status: str | None = None
    published: int = 0
    stored: int = 0
    lost: int = 0
    missing: int = 0
    points: int | None = None
    gaps: list[Gap] = field(default_factory=list)
    sinks: list[SinkReceipt] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """No gap in the log nor in any sink."""
        return not self.gaps and all(sink.is_complete for sink in self.sinks)

    def all_gaps(self) -> list[Gap]:
        """Those of the log first."""
        return self.gaps + [gap for sink in self.sinks for gap in sink.gaps]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "run": self.run,
            "published": self.published,
            "stored": self.stored,
            "sinks": {sink.name: sink.to_dict() for sink in self.sinks},
            "lost": self.lost,
            "missing": self.missing,
            "points": self.points,
            "project": self.project,
            "run_name": self.run_name,
            "status": self.status,
            "complete": self.is_complete,
            "gaps": [
                {"where": gap.where, "source": gap.source, "ids": str(gap.ids), "lost": gap.is_lost}
                for gap in self.all_gaps()
            ],
        }


def make_receipt(
    receipt: Receipt, sources: Sequence[SourceFacts], sinks: Sequence[SinkFacts]
) -> Receipt:
    """Fill in a receipt that names the run.

    Args:
        receipt: With the numbers still at zero; returned filled.
        sources: Every source the log knows of the run.
        sinks: Every sink that was asked.
    """
    known = {facts.source: facts for facts in sources}
    for sink in sinks:
        # A sink may have seen a source live that never reached the log.
        for source in sink.contents.marks.applied if sink.contents else ():
            known.setdefault(source, SourceFacts(source))
    published = {source: _published(facts, sinks) for source, facts in known.items()}
    for source, facts in sorted(known.items()):
        ids = published[source]
        lost = ids.common(facts.lost)
        missing = ids.without(facts.stored)
        receipt.published += len(ids)
        receipt.stored += len(ids) - len(lost) - len(missing)
        receipt.lost += len(lost)
        receipt.missing += len(missing)
        receipt.gaps += _gaps("log", source, lost, missing)
    receipt.sinks = [_sink_receipt(sink, known, published) for sink in sinks]
    return receipt


def _published(facts: SourceFacts, sinks: Sequence[SinkFacts]) -> IdRanges:
    tops = [facts.last_id or 0, facts.stored.top]
    for sink in sinks:
        if sink.contents is not None:
            tops.append(sink.contents.marks.applied.get(facts.source, IdRanges()).top)
    return IdRanges([(1, max(tops))] if max(tops) else [])


def _sink_receipt(
    sink: SinkFacts, known: Mapping[str, SourceFacts], published: Mapping[str, IdRanges]
) -> SinkReceipt:
    result = SinkReceipt(sink.name, sink.contents is not None, error=sink.error)
    if sink.error is not None:
        return result
    if sink.contents is not None:
        result.url = sink.contents.url
        result.points_expected = sink.points_expected
        result.points_found = sink.contents.points
    for source, facts in sorted(known.items()):
        _add_source(result, sink, facts, published[source])
    return result


def _add_source(
    result: SinkReceipt, sink: SinkFacts, facts: SourceFacts, published: IdRanges
) -> None:
    """Take the ids of one source apart, in the order of the module's list."""
    applied, marked_dead, superseded = _held(sink, facts.source)
    dead = published.common(marked_dead)
    rest = published.without(dead)
    lost = rest.common(facts.lost)
    rest = rest.without(lost)
    useless = rest.common(_useless(sink, facts)) if sink.is_wanted else rest
    rest = rest.without(useless)
    missing = rest.without(applied)
    rest = rest.common(applied)
    left_out = rest.common(superseded)
    result.dead += len(dead)
    result.lost += len(lost)
    result.not_applicable += len(useless)
    result.missing += len(missing)
    result.superseded += len(left_out)
    result.delivered += len(rest) - len(left_out)
    result.gaps += _gaps(sink.name, facts.source, lost, missing)


def _held(sink: SinkFacts, source: str) -> tuple[IdRanges, IdRanges, IdRanges]:
    if sink.contents is None:
        return IdRanges(), IdRanges(), IdRanges()
    marks, nothing = sink.contents.marks, IdRanges()
    return (
        marks.applied.get(source, nothing),
        marks.dead.get(source, nothing),
        marks.superseded.get(source, nothing),
    )


def _useless(sink: SinkFacts, facts: SourceFacts) -> IdRanges:
    """Ids of kinds that the sink has no use for."""
    found = IdRanges()
    for kind, ids in facts.kinds.items():
        if kind not in sink.kinds:
            found.update(ids)
    return found


def _gaps(where: str, source: str, lost: IdRanges, missing: IdRanges) -> list[Gap]:
    found = [Gap(where, source, missing, is_lost=False)] if missing else []
    return found + ([Gap(where, source, lost, is_lost=True)] if lost else [])
