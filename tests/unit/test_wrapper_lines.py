"""Lines as a person would have read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from publishers.wrapper.lines import MAX_LINE_CHARACTERS, Lines


def all_of(*chunks: bytes) -> list[str]:
    lines = Lines()
    found = [line for chunk in chunks for line in lines.feed(chunk)]
    return found + lines.finish()


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((b"a\nb\n",), ["a", "b"]),
        ((b"a", b"b\nc"), ["ab", "c"]),
        ((b"a\r\nb\r", b"\n"), ["a", "b"]),
        ((b"10%\r20%\r30%\n",), ["30%"]),
        ((b"10%\r", b"20%\r", b"30%\r", b"\n"), ["30%"]),
        ((b"\n\nx\n",), ["", "", "x"]),
        ((b"\x1b[31mred\x1b[0m \x1b]0;title\x07on\n",), ["red on"]),
        ((b"\xe2\x82", b"\xac\n"), ["\u20ac"]),
        ((b"\xff\xfe\n",), ["\ufffd\ufffd"]),
        ((b"a\x00b\tc\n",), ["ab\tc"]),
        (
            (f"model {'k' * 42}_{'m' * 20}, ul_{'0' * 40}!\n".encode(),),
            [f"model {'m' * 20}, ul_…!"],
        ),
        ((), []),
    ],
)
def test_lines_are_what_is_seen_in_the_end(chunks: tuple[bytes, ...], expected: list[str]) -> None:
    assert all_of(*chunks) == expected


def test_a_line_without_end_is_cut_and_not_gathered() -> None:
    lines = Lines()
    for _ in range(100):
        assert lines.feed(b"x" * 10_000) == []
    assert len(lines._held) < 10 * MAX_LINE_CHARACTERS
    (line,) = lines.feed(b"\n")
    assert len(line) == MAX_LINE_CHARACTERS
    assert line.endswith("x…")
    assert lines.feed(b"next\n") == ["next"]


@given(st.lists(st.binary()), st.binary())
def test_how_the_bytes_are_cut_changes_nothing(chunks: list[bytes], last: bytes) -> None:
    assert all_of(*chunks, last) == all_of(b"".join(chunks) + last)
