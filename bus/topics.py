"""The topics of the bus, and how names become topic levels.

| topic below the prefix                      | who publishes → who reads                      |
|---------------------------------------------|------------------------------------------------|
| ``events/{slot}/{project}/{run}/{kind}``    | shipper → every group                          |
| ``replay/{group}/{slot}/{project}/{run}/{kind}`` | replay → that group only                  |
| ``stored/{project}/{run}``                  | log group → shippers and sinks                 |
| ``groups/{group}/{member}``                 | worker heartbeat and last will                 |
| ``nodes/{node}/{spool}``                    | shipper heartbeat and last will                |
| ``control/{project}/{run}``                 | ``trainbus stop``, sinks → shippers            |
| ``dead/{group}/{project}/{run}``            | dead letters → log group                       |

A level keeps to ``[A-Za-z0-9_-]``, the characters every broker takes as they are: NATS turns a dot
into two levels and refuses blanks. Any other byte of a name's UTF-8 form is written ``_XX`` in hex,
and ``_`` itself ``_5F``, so that the mapping can be undone. Kinds are fixed words and stand as
they are.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from bus.errors import EventError

__all__ = [
    "LOG_GROUP",
    "SLOTS",
    "EventTopic",
    "Topics",
    "decode_level",
    "encode_level",
    "shard_of",
    "slot_of",
]

LOG_GROUP = "log"
"""The group that stores events in the event log, beside those of the sinks."""

SLOTS = 64
"""Runs are spread over this many slots, which the shards of a group share."""

MAX_LEVEL_BYTES = 1024
"""Longest encoded level. MQTT allows 65,535 bytes for a whole topic, NATS less."""

_PLAIN = re.compile(rb"[A-Za-z0-9-]")
_KIND = re.compile(r"[a-z]+(?:_[a-z]+)*")
_LEVEL = re.compile(r"(?:[A-Za-z0-9-]|_[0-9A-F]{2})+")


def encode_level(name: str, field: str = "topic") -> str:
    """Write a name as one topic level.

    Raises:
        EventError: The name is empty, or too long once written; ``field`` names it.
    """
    if not name:
        raise EventError(field, "is empty")
    try:
        raw = name.encode()
    except UnicodeEncodeError as error:
        raise EventError(field, "holds a lone surrogate, which UTF-8 cannot carry") from error
    level = "".join(chr(b) if _PLAIN.match(bytes((b,))) else f"_{b:02X}" for b in raw)
    if len(level) > MAX_LEVEL_BYTES:
        raise EventError(
            field, f"takes {len(level)} bytes as a topic level, over {MAX_LEVEL_BYTES}"
        )
    return level


def decode_level(level: str, field: str = "topic") -> str:
    """Read back the name that :func:`encode_level` wrote.

    Raises:
        EventError: The level holds a character outside ``[A-Za-z0-9_-]``, a wild character
            among them, or an escape that is none.
    """
    if not _LEVEL.fullmatch(level):
        raise EventError(field, f"{level!r} is no topic level: use [A-Za-z0-9-] and _XX in hex")
    parts = level.split("_")
    raw = parts[0].encode() + b"".join(
        bytes((int(part[:2], 16),)) + part[2:].encode() for part in parts[1:]
    )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise EventError(field, f"{level!r} is not UTF-8 once decoded") from error


def slot_of(run: str) -> int:
    """The slot of a run: crc32 of its UTF-8 id, modulo :data:`SLOTS`."""
    return zlib.crc32(run.encode()) % SLOTS


def shard_of(slot: int, shards: int) -> int:
    """The shard of a group of ``shards`` shards that consumes a slot."""
    return slot % shards


def _kind(level: str) -> str:
    if not _KIND.fullmatch(level):
        raise EventError("topic", f"{level!r} is no kind of event")
    return level


@dataclass(frozen=True, slots=True)
class EventTopic:
    """What the topic of an event says. ``group`` is None unless it is a replay."""

    project: str
    run: str
    kind: str
    slot: int
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Topics:
    """Builds and reads the topics below one prefix."""

    prefix: str = "trainbus/v1"

    def __post_init__(self) -> None:
        for level in self.prefix.split("/"):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", level):
                raise EventError("prefix", f"{self.prefix!r}: levels take [A-Za-z0-9_-] only")

    def event(self, project: str, run: str, kind: str) -> str:
        """Where the shipper publishes an event."""
        return f"{self.prefix}/events/{self._place(project, run, kind)}"

    def replay(self, group: str, project: str, run: str, kind: str) -> str:
        """Where replay publishes an event for one group."""
        group_level = encode_level(group, "group")
        return f"{self.prefix}/replay/{group_level}/{self._place(project, run, kind)}"

    def shard_filters(self, group: str, shard: int, shards: int) -> list[str]:
        """The subscriptions of one shard session: its slots, live and replayed.

        ``+`` and not ``#``: on NATS each ``#`` counts twice against the pending limit.
        """
        group_level = encode_level(group, "group")
        slots = range(shard, SLOTS, shards)
        live = [f"{self.prefix}/events/{slot:02x}/+/+/+" for slot in slots]
        return live + [f"{self.prefix}/replay/{group_level}/{slot:02x}/+/+/+" for slot in slots]

    def session(self, group: str, shard: int) -> str:
        """The client id of a shard's session."""
        return f"{self.prefix.replace('/', '-')}-{encode_level(group, 'group')}-{shard}"

    def stored(self, project: str, run: str) -> str:
        """Where the log group confirms what it stored of a run."""
        return f"{self.prefix}/stored/{self._pair(project, run)}"

    def control(self, project: str, run: str) -> str:
        """Where a run is asked to stop."""
        return f"{self.prefix}/control/{self._pair(project, run)}"

    def dead(self, group: str, project: str, run: str) -> str:
        """Where a group reports a dead letter."""
        return f"{self.prefix}/dead/{encode_level(group, 'group')}/{self._pair(project, run)}"

    def member(self, group: str, member: str) -> str:
        """The heartbeat of one worker."""
        return f"{self.prefix}/groups/{encode_level(group, 'group')}/{encode_level(member)}"

    def node(self, node: str, spool: str) -> str:
        """The heartbeat of one shipper."""
        return f"{self.prefix}/nodes/{encode_level(node, 'node')}/{encode_level(spool, 'spool')}"

    def members_filter(self, group: str) -> str:
        """All heartbeats of a group."""
        return f"{self.prefix}/groups/{encode_level(group, 'group')}/+"

    @property
    def groups_filter(self) -> str:
        """All heartbeats of all groups."""
        return f"{self.prefix}/groups/+/+"

    @property
    def stored_filter(self) -> str:
        """All stored-acks."""
        return f"{self.prefix}/stored/+/+"

    @property
    def control_filter(self) -> str:
        """All notices to runs."""
        return f"{self.prefix}/control/+/+"

    @property
    def nodes_filter(self) -> str:
        """All heartbeats of shippers."""
        return f"{self.prefix}/nodes/+/+"

    @property
    def dead_filter(self) -> str:
        """All dead letters."""
        return f"{self.prefix}/dead/+/+/+"

    def parse_event(self, topic: str) -> EventTopic:
        """Read the topic of a live or replayed event.

        Raises:
            EventError: It is not of the form this class writes, or its slot is not the run's.
        """
        levels = self._below_prefix(topic)
        group = None
        if levels[:1] == ["replay"] and len(levels) == 6:
            group = decode_level(levels[1])
            levels = ["events", *levels[2:]]
        if levels[:1] != ["events"] or len(levels) != 5:
            raise EventError("topic", f"{topic!r} is not the topic of an event")
        run = decode_level(levels[3])
        slot = slot_of(run)
        if levels[1] != f"{slot:02x}":
            raise EventError("topic", f"{topic!r}: run {run!r} belongs to slot {slot:02x}")
        return EventTopic(decode_level(levels[2]), run, _kind(levels[4]), slot, group)

    def parse_tail(self, topic: str) -> list[str]:
        """The decoded levels below the prefix and the first word, as of ``stored/{project}/{run}``.

        Raises:
            EventError: The topic is not below the prefix, or a level is malformed.
        """
        return [decode_level(level) for level in self._below_prefix(topic)[1:]]

    def _below_prefix(self, topic: str) -> list[str]:
        if not topic.startswith(self.prefix + "/"):
            raise EventError("topic", f"{topic!r} is not below {self.prefix!r}")
        return topic[len(self.prefix) + 1 :].split("/")

    def _place(self, project: str, run: str, kind: str) -> str:
        # Kinds are our own words and stay readable: run_started, not run_5Fstarted.
        return f"{slot_of(run):02x}/{self._pair(project, run)}/{_kind(kind)}"

    def _pair(self, project: str, run: str) -> str:
        return f"{encode_level(project, 'project')}/{encode_level(run, 'run')}"
