"""The journal's format on disk, shared by its writer and its reader.

A **spool** is a folder on a local disk::

    SPOOL/
      shipper.lock            held by the one shipper of this spool
      shipper.log             what it printed
      sources/{rank}-{incarnation}/
        lock                  held by the training process as long as it lives
        000001.journal …      segments, append-only
        cuts                  the shipper's record of how segments were cut into events
        stop                  left by the shipper when the run was asked to stop: one line, made
                              as those of a segment are, of a notice (:mod:`bus.control`)
        end.command, end.process  how it ended, when it wrote no end (:mod:`publishers.lastwords`)
        blobs/                snapshots of files that wait for their upload

**Segment**: lines of ``crc32 (8 hex digits, of the payload), blank, payload (JSON), newline``.
The payload of the first line is a :class:`SegmentHeader`. After it:

- ``{"table":3,"keys":["train/loss"]}`` names a set of keys. It stands before the first row that
  uses it in every segment, twice, so that one damaged line cannot take rows with it. The number
  means the same keys in every segment of the source.
- ``[3,1767225600.12,10,0.31]`` is a row: table, time (Unix seconds), step, values. Rows are the
  only payloads that begin with ``[``, so that coalescing joins bytes and parses nothing.
- ``{"kind":"params","time":1767225600.1,"data":{…}}`` is any other record. One with bytes has
  ``"blob":{"path":"blobs/…","name":"last.pt","is_folder":false}`` too, the path relative to the
  source's folder; the shipper adds ``blob`` to ``data`` once it is uploaded.

**Invariants**

1. A line is written by one ``write`` call. After a short or failed write the next write begins
   with a newline, so that only the torn line is damaged.
2. A segment is complete when the next one exists. Segments are never truncated or rewritten.
3. A line whose checksum fails is skipped, counted and reported; the lines around it count.
4. A last line without a newline is not there yet while the writer lives, and damaged after that.
5. Only the training process appends while ``lock`` is held, only the shipper afterwards.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from bus.errors import JournalError

__all__ = [
    "FORMAT_VERSION",
    "SEGMENT_BYTES",
    "SegmentHeader",
    "check_line",
    "check_lines",
    "make_line",
    "parse_header",
    "segment_name",
    "segment_number",
]

FORMAT_VERSION = 1

SEGMENT_BYTES = 64 * 1024 * 1024
"""A segment that has reached this size is followed by a new one."""

LOCK_NAME = "lock"
CUTS_NAME = "cuts"
BLOBS_NAME = "blobs"
STOP_NAME = "stop"
COMMAND_END_NAME = "end.command"
PROCESS_END_NAME = "end.process"
SOURCES_NAME = "sources"
SHIPPER_LOCK_NAME = "shipper.lock"
SHIPPER_LOG_NAME = "shipper.log"

_SEGMENT = re.compile(r"(\d{6})\.journal")


class SegmentHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first line of every segment: whose it is.

    Attributes:
        wrapper: Names the ``trainbus run`` around the process, which knows how it ends; empty
            without one.
    """

    journal: int
    segment: int
    source: str
    run: str
    project: str
    run_name: str
    pid: int
    wrapper: str = ""


_header_decoder = msgspec.json.Decoder(SegmentHeader)


def segment_name(number: int) -> str:
    """File name of a segment, counted from 1."""
    return f"{number:06d}.journal"


def segment_number(name: str) -> int | None:
    """The number of a segment by its file name; None for any other file."""
    match = _SEGMENT.fullmatch(name)
    return int(match[1]) if match else None


def make_line(payload: bytes) -> bytes:
    """A payload as a line, newline included."""
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def check_line(line: bytes) -> bytes | None:
    """The payload of a line without its newline; None when it is damaged."""
    payload = line[9:]
    try:
        is_sound = line[8:9] == b" " and int(line[:8], 16) == zlib.crc32(payload)
    except ValueError:
        return None
    return payload if is_sound and payload else None


def check_lines(lines: Sequence[bytes]) -> list[bytes]:
    """The payloads of many lines, as :func:`check_line`; empty where a line is damaged.

    Whole lines of checksums are compared at once: with rows of ten floats this is four times as
    fast, and the shipper spends most of its time here.
    """
    payloads = [line[9:] for line in lines]
    sums = b"".join([line[:9] for line in lines])
    try:
        # fromhex passes over the blanks; that there is one in each ninth place is checked apart.
        expected = bytes.fromhex(sums.decode("ascii"))
        if sums[8::9] == b" " * len(lines) and len(sums) == 9 * len(lines):
            actual = struct.pack(f">{len(lines)}I", *map(zlib.crc32, payloads))
            if expected == actual and b"" not in payloads:
                return payloads
    except ValueError:
        pass
    return [check_line(line) or b"" for line in lines]


def parse_header(payload: bytes) -> SegmentHeader:
    """Read the first payload of a segment.

    Raises:
        JournalError: It is no header, or of a version this program does not know.
    """
    try:
        header = _header_decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise JournalError(f"not a journal: {error}") from error
    if header.journal != FORMAT_VERSION:
        raise JournalError(
            f"journal version {header.journal} is not {FORMAT_VERSION}: "
            "install the trainbus that wrote it"
        )
    return header


def make_payload(record: dict[str, Any]) -> bytes:
    """Write any record but a row.

    Raises:
        TypeError: It holds what JSON cannot.
    """
    return orjson.dumps(record)
