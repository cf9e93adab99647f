"""Makes lines of what a command prints, as a person at a terminal would have read them. Pure."""

from __future__ import annotations

import re

from publishers.redaction import without_keys

__all__ = ["MAX_LINE_CHARACTERS", "Lines"]

MAX_LINE_CHARACTERS = 4096
"""What is longer is cut off, and ends with an ellipsis."""

_MAX_HELD_BYTES = 4 * MAX_LINE_CHARACTERS
"""Held of a line whose end has not come: UTF-8 has four bytes for a character at the most."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""Colours, movements and titles: ECMA-48, CSI, OSC, and escape sequences of one character."""

_LONG_WORDS = re.compile(r"\b\w{63}\b", re.ASCII)
"""As long as an identifier of Ultralytics HUB, which may hold a key."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Lines:
    """The lines of one stream.

    A line that was written over, as progress bars do, is what it was in the end. Colours are left
    out, and so are keys of Ultralytics. What is no UTF-8 becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._held = b""
        self._is_cut = False

    def feed(self, data: bytes) -> list[str]:
        """Take what came next; gives the lines that are whole now."""
        *whole, rest = data.split(b"\n")
        lines = []
        for part in whole:
            self._hold(part)
            lines.append(self._take())
        self._hold(rest)
        return lines

    def finish(self) -> list[str]:
        """The stream has ended: its last line, if that had no end."""
        return [self._take()] if self._held else []

    def _hold(self, part: bytes) -> None:
        data = self._held + part
        body = data.rstrip(b"\r")
        # Whether what stands before a last return is written over is not known yet.
        returned = data[len(body) :][:1]
        over = body.rfind(b"\r")
        if over >= 0:
            body, self._is_cut = body[over + 1 :], False
        self._is_cut = self._is_cut or len(body) > _MAX_HELD_BYTES
        self._held = body[:_MAX_HELD_BYTES] + returned

    def _take(self) -> str:
        text = self._held.rstrip(b"\r").decode("utf-8", errors="replace")
        is_cut, self._held, self._is_cut = self._is_cut, b"", False
        text = _CONTROLS.sub("", _ESCAPES.sub("", text))
        text = without_keys(_LONG_WORDS.sub(lambda word: without_keys(word[0]), text))
        if is_cut or len(text) > MAX_LINE_CHARACTERS:
            text = text[: MAX_LINE_CHARACTERS - 1] + "…"
        return text
