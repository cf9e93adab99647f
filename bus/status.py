"""What ``trainbus status`` says: heartbeats and the event log in, the bus's state out; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from bus.eventlog.records import OPEN, RETRIED, Group, RunSummary
from bus.group.heartbeat import Heartbeat
from bus.nodes import NodeHeartbeat
from bus.topics import LOG_GROUP

__all__ = [
    "BEHIND_SECONDS",
    "GroupStatus",
    "LogFacts",
    "MemberStatus",
    "NodeStatus",
    "Status",
    "make_status",
]

BEHIND_SECONDS = 60.0
"""A group whose oldest waiting event is older than this is said to be behind."""

_CIRCUITS = ("closed", "half-open", "open")
_SHOWN_ERROR = 200


@dataclass(slots=True)
class LogFacts:
    """What the event log says.

    Attributes:
        dead: Number of dead letters by group and state.
        error: Why it cannot be read; then the rest is empty.
        is_failure: It should be readable from here, and is not.
    """

    runs: list[RunSummary] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    dead: Mapping[tuple[str, str], int] = field(default_factory=dict)
    error: str | None = None
    is_failure: bool = False


@dataclass(slots=True)
class NodeStatus:
    """One shipper.

    Attributes:
        sources: Journals it serves.
        waiting: Events published and not yet confirmed as stored.
        backlog_bytes: Journal bytes not yet published.
    """

    node: str
    spool: str
    sources: int
    waiting: int
    backlog_bytes: int


@dataclass(slots=True)
class MemberStatus:
    """One worker; its counters are those since its start."""

    member: str
    shards: int
    owned: list[int]
    report: dict[str, Any]


@dataclass(slots=True)
class GroupStatus:
    """The workers of one sink, or of the event log.

    Attributes:
        shards: How many it has; 0 when nobody says.
        unowned: Shards that no member owns.
        lag: Events that the log has and the sink has not, as far as members know.
        lag_seconds: Age of the oldest event that waits.
        retries: Calls of the sink that failed and were tried again, since the members' start.
        rate_waits: Calls that waited for a rate limit, since the members' start.
        rate_waiting_runs: Runs that wait for one now.
        circuit: ``closed``, ``half-open`` or ``open``: whether the sink is being called.
        circuit_error: What it said last, while that is not closed.
        dead: Dead letters nobody has dealt with.
        retried: Dead letters that are to be tried again.
    """

    group: str
    shards: int = 0
    members: list[MemberStatus] = field(default_factory=list)
    unowned: list[int] = field(default_factory=list)
    lag: int = 0
    lag_seconds: float = 0.0
    retries: int = 0
    rate_waits: int = 0
    rate_waiting_runs: int = 0
    circuit: str = "closed"
    circuit_error: str = ""
    dead: int = 0
    retried: int = 0

    @property
    def owned(self) -> int:
        """How many shards have an owner."""
        return self.shards - len(self.unowned)


@dataclass(slots=True)
class Status:
    """The whole bus.

    Attributes:
        broker: Its address.
        problems: What is wrong, a line each with the way out.
        notes: What cannot be shown from here, and why.
    """

    broker: str
    nodes: list[NodeStatus] = field(default_factory=list)
    runs: list[RunSummary] = field(default_factory=list)
    groups: list[GroupStatus] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_healthy(self) -> bool:
        """Nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"healthy": self.is_healthy, **asdict(self)}


def make_status(
    broker: str,
    broker_error: str | None,
    members: Mapping[tuple[str, str], Heartbeat],
    nodes: Mapping[tuple[str, str], NodeHeartbeat],
    log: LogFacts,
) -> Status:
    """Put together what was heard and what the log says.

    Args:
        broker: Address of the broker.
        broker_error: Why nothing could be heard; None when it could.
        members: The last heartbeat of each worker, by group and member.
        nodes: The last heartbeat of each shipper, by node and spool.
        log: What the event log says.
    """
    status = Status(broker, runs=list(log.runs))
    status.nodes = [_node(beat) for _, beat in sorted(nodes.items())]
    records = {group.group: group for group in log.groups}
    names = {LOG_GROUP, *records, *(group for group, _ in members), *(g for g, _ in log.dead)}
    for name in sorted(names, key=lambda name: (name != LOG_GROUP, name)):
        beats = [beat for (group, _), beat in sorted(members.items()) if group == name]
        group = _group(name, beats, records.get(name), log)
        status.groups.append(group)
        if broker_error is None:
            status.problems += _group_problems(group, records.get(name))
        status.problems += _letter_problems(group)
    if broker_error is not None:
        status.problems.insert(
            0, f"nobody answers on {broker}: is the broker running? ({broker_error})"
        )
    if log.error is not None:
        (status.problems if log.is_failure else status.notes).append(
            f"runs and dead letters cannot be shown: {log.error}"
        )
    return status


def _node(beat: NodeHeartbeat) -> NodeStatus:
    sources = {*beat.sources, *beat.live}
    return NodeStatus(beat.node, beat.spool, len(sources), beat.waiting, beat.backlog_bytes)


def _group(
    name: str, beats: Sequence[Heartbeat], record: Group | None, log: LogFacts
) -> GroupStatus:
    group = GroupStatus(name, shards=record.shards if record else 0)
    group.members = [MemberStatus(b.member, b.shards, b.owned, _plain(b.report)) for b in beats]
    if beats:
        # What the owners say: a stranger with another number takes no part.
        counts = Counter[int]()
        for beat in beats:
            counts[beat.shards] += 1 + 100 * bool(beat.owned)
        group.shards = counts.most_common(1)[0][0]
    owned = {shard for beat in beats if beat.shards == group.shards for shard in beat.owned}
    group.unowned = sorted(set(range(group.shards)) - owned)
    reports = [member.report for member in group.members]
    # The log group's own lag is what it holds and has not stored.
    lag = "held" if name == LOG_GROUP else "lag"
    group.lag = int(sum(_number(report, lag) for report in reports))
    group.lag_seconds = round(max((_number(r, "lag_seconds") for r in reports), default=0.0), 1)
    group.retries = int(sum(_number(report, "retries") for report in reports))
    group.rate_waits = int(sum(_number(report, "rate_waits") for report in reports))
    group.rate_waiting_runs = int(sum(_number(r, "rate_waiting_runs") for r in reports))
    for report in reports:
        _add_circuit(group, report.get("circuit"))
    group.dead = log.dead.get((name, OPEN), 0)
    group.retried = log.dead.get((name, RETRIED), 0)
    return group


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    """The report, or nothing of one that holds what the JSON form cannot: numbers over 64 bits."""
    try:
        orjson.dumps(report)
    except TypeError:
        return {}
    return report


def _number(report: Mapping[str, Any], name: str) -> float:
    """A counter of a report: which it has depends on the version of the worker."""
    value = report.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _add_circuit(group: GroupStatus, circuit: object) -> None:
    """Take the worst of the sink's circuits, and of its projects'."""
    if not isinstance(circuit, Mapping):
        return
    state = circuit.get("state")
    if state in _CIRCUITS and _CIRCUITS.index(state) > _CIRCUITS.index(group.circuit):
        group.circuit = state
        group.circuit_error = str(circuit.get("error") or "")[:_SHOWN_ERROR]
    projects = circuit.get("projects")
    if isinstance(projects, Mapping):
        for project in projects.values():
            _add_circuit(group, project)


def _group_problems(group: GroupStatus, record: Group | None) -> list[str]:
    name = group.group
    if not group.members:
        if name == LOG_GROUP:
            return ["no log worker: nothing is confirmed as stored; start trainbus worker log"]
        if record is None:
            return []
        return [f"no {name} worker: its events wait; start trainbus worker {name}"]
    found: list[str] = []
    numbers = sorted({member.shards for member in group.members})
    if len(numbers) > 1:
        texts = " and ".join(map(str, numbers))
        found.append(f"workers of {name} were started with {texts} shards: restart those of one")
    elif record is not None and record.shards != group.shards:
        found.append(
            f"{name} works with {group.shards} shards, the event log has {record.shards} on "
            f"record: stop it and run trainbus group resize {name} --shards {group.shards}"
        )
    if len(group.unowned) == 1:
        found.append(f"shard {group.unowned[0]} of {name} has no owner")
    elif group.unowned:
        found.append(f"shards {_listed(group.unowned)} of {name} have no owner")
    return found + _pace_problems(group)


def _pace_problems(group: GroupStatus) -> list[str]:
    name = group.group
    if group.circuit != "closed":
        return [f"{name} does not take events ({group.circuit}): {group.circuit_error or '?'}"]
    # One that waits for a rate limit does what it was told to do.
    if group.lag_seconds > BEHIND_SECONDS and not group.rate_waiting_runs:
        return [f"{name} is {group.lag_seconds:,.0f} s behind"]
    return []


def _letter_problems(group: GroupStatus) -> list[str]:
    if not group.dead:
        return []
    letters = "1 dead letter" if group.dead == 1 else f"{group.dead:,} dead letters"
    return [f"{letters} of {group.group}: see trainbus dead ls --group {group.group}"]


def _listed(shards: Sequence[int]) -> str:
    return ", ".join(map(str, shards))
