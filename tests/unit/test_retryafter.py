"""The pause an HTTP answer asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.retryafter import retry_after_seconds

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "Thu, 01 Jan 2026 00:01:30 GMT"}, 90.0),
        ({"Retry-After": "Wed, 31 Dec 2025 23:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"X-RateLimit-Reset": "30"}, 30.0),
        ({"X-RateLimit-Reset": "1767225660"}, 60.0),
        ({"X-RateLimit-Reset": "1767225000"}, 0.0),
        ({"X-RateLimit-Reset": "never"}, None),
        ({"X-RateLimit-Reset": "nan"}, None),
        ({"Retry-After": "7", "X-RateLimit-Reset": "30"}, 7.0),
    ],
)
def test_what_an_answer_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == seconds


@given(st.text(), st.text())
def test_no_header_is_an_error(after: str, reset: str) -> None:
    found = retry_after_seconds({"Retry-After": after, "X-RateLimit-Reset": reset}, NOW)
    assert found is None or found >= 0
