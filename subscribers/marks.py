"""Applied marks and rank states as short named texts: tags of MLflow, user properties of ClearML.

The value of a tag is bounded (in MLflow 8000 characters today, 5000 on older servers), so that a
long text takes several: ``key`` holds the number of parts and the first of them, ``key.1``,
``key.2`` … the others. Parts left over from a time when the text was longer are not read.

Every source has a text of its own, ``{source};{applied};{dead}`` with the ids as ranges, under
``trainbus.marks.`` and 16 hex digits of the sha256 of the source: a batch of one rank writes one
short text, however many ranks the run has. Where ids were superseded, ``;{superseded}`` follows.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping

from bus.errors import EventError
from bus.idranges import IdRanges
from bus.sinks import Marks

__all__ = ["join_text", "marks_from_texts", "marks_to_texts", "split_text"]

_log = logging.getLogger(__name__)

_PART_CHARACTERS = 4500
_KEY = re.compile(r"trainbus\.marks\.[0-9a-f]{16}")


def split_text(key: str, text: str) -> dict[str, str]:
    """Spread a text over as many named texts as it needs."""
    starts = range(0, max(len(text), 1), _PART_CHARACTERS)
    parts = [text[start : start + _PART_CHARACTERS] for start in starts]
    others = {f"{key}.{number}": part for number, part in enumerate(parts) if number}
    return {key: f"{len(parts)};{parts[0]}", **others}


def join_text(key: str, texts: Mapping[str, str]) -> str | None:
    """Read back what :func:`split_text` wrote; None when it is not there or damaged."""
    count, separator, first = texts.get(key, "").partition(";")
    if not separator or not count.isdecimal():
        return None
    others = [texts.get(f"{key}.{number}") for number in range(1, int(count))]
    whole = [part for part in others if part is not None]
    return "".join([first, *whole]) if len(whole) == len(others) else None


def marks_to_texts(marks: Marks) -> dict[str, str]:
    """The named texts that hold the marks."""
    texts: dict[str, str] = {}
    for source, applied in marks.applied.items():
        text = f"{source};{applied};{marks.dead.get(source, IdRanges())}"
        if superseded := marks.superseded.get(source):
            text += f";{superseded}"
        texts |= split_text(_key_of(source), text)
    return texts


def marks_from_texts(texts: Mapping[str, str]) -> Marks:
    """Read the marks of all sources.

    A text that somebody damaged counts as none: its events are written once more, which changes
    nothing in the tracker, and that is better than never writing to the run again.
    """
    marks = Marks()
    for key in filter(_KEY.fullmatch, texts):
        try:
            source, applied, dead, *rest = (join_text(key, texts) or "").split(";")
            ids, dead_ids = IdRanges.parse(applied), IdRanges.parse(dead)
            left_out = IdRanges.parse(*rest) if rest else IdRanges()
            if _key_of(source) != key:
                raise EventError(key, "is not the name of its source's text")
        except (ValueError, TypeError, EventError):
            _log.warning("%s is damaged: the events of its source are written again", key)
            continue
        marks.applied[source] = ids
        if dead_ids:
            marks.dead[source] = dead_ids
        if left_out:
            marks.superseded[source] = left_out
    return marks


def _key_of(source: str) -> str:
    return f"trainbus.marks.{hashlib.sha256(source.encode()).hexdigest()[:16]}"
