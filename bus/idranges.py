"""A set of event ids, held as ranges: what a source has stored, or a sink has applied.

Ids count from 1 without holes, so that a set of millions is usually one range. The text form,
``1-500,502,510-600``, is what applied marks and the event log keep.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from bus.errors import EventError

__all__ = ["IdRanges"]


class IdRanges:
    """A mutable set of positive integers, kept as sorted ranges that neither overlap nor touch.

    All operations take O(log r) for r ranges, or O(r) where ranges are joined.
    """

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    @classmethod
    def parse(cls, text: str) -> IdRanges:
        """Read the text form. An empty text is the empty set.

        Raises:
            EventError: The text is not a list of ranges of positive integers.
        """
        result = cls()
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            try:
                result.add(int(first), int(last or first))
            except ValueError as error:
                raise EventError("ranges", f"{part!r} is no range of ids") from error
        return result

    def add(self, first: int, last: int | None = None) -> None:
        """Add the ids ``first`` to ``last``, both included; ``last`` defaults to ``first``.

        Raises:
            ValueError: ``first`` is below 1 or above ``last``.
        """
        last = first if last is None else last
        if first < 1 or last < first:
            raise ValueError(f"{first}-{last} is no range of ids")
        low = bisect_right(self._lasts, first - 2)
        high = bisect_right(self._firsts, last + 1)
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def update(self, other: Iterable[tuple[int, int]]) -> None:
        """Add every range of ``other``."""
        for first, last in other:
            self.add(first, last)

    @property
    def contiguous(self) -> int:
        """The highest id n for which all of 1..n are in the set; 0 when 1 is missing."""
        return self._lasts[0] if self._firsts and self._firsts[0] == 1 else 0

    @property
    def top(self) -> int:
        """The highest id in the set; 0 when it is empty."""
        return self._lasts[-1] if self._lasts else 0

    def gaps(self, last: int | None = None, first: int = 1) -> list[tuple[int, int]]:
        """The ranges missing between ``first`` and ``last`` (default: the top), both included."""
        last = self.top if last is None else last
        found: list[tuple[int, int]] = []
        at = first
        for index in range(bisect_right(self._lasts, first - 1), len(self._firsts)):
            if at > last:
                break
            if self._firsts[index] > at:
                found.append((at, min(self._firsts[index] - 1, last)))
            at = self._lasts[index] + 1
        if at <= last:
            found.append((at, last))
        return found

    def next_missing(self, number: int) -> int:
        """The lowest id from ``number`` on that is not in the set."""
        index = bisect_right(self._firsts, number) - 1
        is_inside = index >= 0 and number <= self._lasts[index]
        return self._lasts[index] + 1 if is_inside else number

    def without(self, other: IdRanges) -> IdRanges:
        """The ids of this set that are not in ``other``."""
        result = IdRanges()
        for first, last in self:
            result.update(other.gaps(last, first))
        return result

    def common(self, other: IdRanges) -> IdRanges:
        """The ids that are in both sets."""
        return self.without(self.without(other))

    def copy(self) -> IdRanges:
        """An independent set of the same ids."""
        twin = IdRanges()
        twin._firsts = self._firsts.copy()
        twin._lasts = self._lasts.copy()
        return twin

    def __contains__(self, value: int) -> bool:
        index = bisect_right(self._firsts, value) - 1
        return index >= 0 and value <= self._lasts[index]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, lowest first, as (first, last)."""
        return iter(list(zip(self._firsts, self._lasts, strict=True)))

    def __len__(self) -> int:
        """How many ids are in the set."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IdRanges):
            return NotImplemented
        return self._firsts == other._firsts and self._lasts == other._lasts

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __str__(self) -> str:
        return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in self)

    def __repr__(self) -> str:
        return f"IdRanges({str(self)!r})"
