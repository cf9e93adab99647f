from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publishers.journal.format import make_line
from publishers.journal.reader import Line, SegmentReader

_payloads = st.lists(st.binary(min_size=1, max_size=30).filter(lambda raw: b"\n" not in raw))
_FIVE = [b"[1,%d]" % number for number in range(5)]


def _read(data: bytes, chunk_bytes: int) -> list[Line]:
    reader = SegmentReader()
    lines: list[Line] = []
    for start in range(0, len(data), chunk_bytes):
        assert reader.position == start
        lines += reader.feed(data[start : start + chunk_bytes])
    tail = reader.finish()
    return [*lines, tail] if tail else lines


@given(_payloads)
def test_any_chunking_gives_the_same_lines(payloads: list[bytes]) -> None:
    data = b"".join(map(make_line, payloads))
    whole = _read(data, len(data) or 1)
    assert [line.payload for line in whole] == payloads
    for chunk_bytes in range(1, len(data)):
        assert _read(data, chunk_bytes) == whole


def test_a_cut_at_every_byte_keeps_every_whole_line_and_reports_the_torn_one() -> None:
    data = b"".join(map(make_line, _FIVE))
    for cut in range(len(data) + 1):
        lines = _read(data[:cut], 7)
        whole = data[:cut].count(b"\n")
        assert [line.payload for line in lines[:whole]] == _FIVE[:whole]
        is_torn = cut > 0 and data[cut - 1 : cut] != b"\n"
        assert [line.payload for line in lines[whole:]] == [None] * is_torn
        assert not lines or lines[-1].end == cut


def test_lines_tell_where_they_stand() -> None:
    data = b"".join(map(make_line, _FIVE))
    for line in _read(data, 11):
        assert data[line.offset : line.end] == make_line(line.payload or b"")


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
def test_a_changed_byte_costs_only_the_lines_it_touches(at: int, value: int) -> None:
    data = bytearray(b"".join(map(make_line, _FIVE)))
    at %= len(data)
    data[at] = value
    sound = [line.payload for line in _read(bytes(data), 16) if line.payload is not None]
    assert [payload for payload in _FIVE if payload in sound] == sound
    assert len(sound) >= len(_FIVE) - 2


def test_a_torn_line_followed_by_a_newline_costs_only_itself() -> None:
    torn = make_line(b"[1,2]")[:-4]
    lines = _read(make_line(b"[1,1]") + torn + b"\n" + make_line(b"[1,3]"), 100)
    assert [line.payload for line in lines] == [b"[1,1]", None, b"[1,3]"]


def test_an_empty_line_is_no_line() -> None:
    data = make_line(b"[1,1]") + b"\n\n" + make_line(b"[1,2]")
    lines = _read(data, 3)
    assert [line.payload for line in lines] == [b"[1,1]", b"[1,2]"]
    assert lines[1].offset == len(make_line(b"[1,1]")) + 2


def test_an_incomplete_tail_is_kept_until_the_rest_comes() -> None:
    line = make_line(b"[1,1]")
    reader = SegmentReader()
    assert reader.feed(line[:5]) == []
    assert reader.offset == 0
    assert reader.feed(line[5:]) == [Line(0, len(line), b"[1,1]")]
    assert reader.finish() is None


def test_a_reader_goes_on_from_the_offset_of_another() -> None:
    data = b"".join(map(make_line, _FIVE))
    first = SegmentReader()
    seen = first.feed(data[:40])
    second = SegmentReader(first.offset)
    seen += second.feed(data[second.position :])
    assert [line.payload for line in seen] == _FIVE


@pytest.mark.parametrize(
    "line", [b"x", b"00000000 ", b"zzzzzzzz [1]", b"0000000000000", b"\0" * 40]
)
def test_what_is_no_line_is_damaged(line: bytes) -> None:
    assert SegmentReader().feed(line + b"\n") == [Line(0, len(line) + 1, None)]
