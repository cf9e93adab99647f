"""The pause an HTTP answer asks for: Retry-After, or X-RateLimit-Reset. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

__all__ = ["retry_after_seconds"]

_EPOCH_SECONDS = 1e9
"""X-RateLimit-Reset is a number of seconds with some servers, and a time with others."""


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """How many seconds the answer asks not to be called; None when it does not say.

    ``Retry-After`` as seconds or as a date (RFC 9110, 10.2.3), else ``X-RateLimit-Reset`` as
    seconds or as Unix time.

    Args:
        headers: Of the answer; looked up without regard to case by those who give them.
        now: Unix time.
    """
    after = headers.get("Retry-After", "").strip()
    if after:
        return _seconds(after) if after[0].isdigit() else _until_date(after, now)
    reset = _seconds(headers.get("X-RateLimit-Reset", "").strip())
    if reset is None or reset < _EPOCH_SECONDS:
        return reset
    return max(reset - now, 0.0)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _until_date(text: str, now: float) -> float | None:
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0)
    except (ValueError, OverflowError, OSError):
        return None
