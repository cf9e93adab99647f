"""Retry policies as data, carried out by tenacity.

A :class:`RetryPolicy` says how long to wait between attempts: exponential with full jitter, capped
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), and never shorter than
the pause the other side asked for.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_never,
)

from bus.errors import RetryableSinkError

__all__ = ["RECONNECT", "SINK_RETRY", "Backoff", "RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon to try again.

    Attributes:
        initial_seconds: Upper bound of the first wait.
        cap_seconds: Upper bound of every wait, but for a pause that was asked for.
        multiplier: Growth of the bound from wait to wait.
        attempts: At most so many attempts; None for no end.
    """

    initial_seconds: float = 0.2
    cap_seconds: float = 30.0
    multiplier: float = 2.0
    attempts: int | None = None

    def wait_seconds(self, attempt: int, asked_seconds: float | None, uniform: float) -> float:
        """How long to wait after a failed attempt.

        Args:
            attempt: Number of the attempt that failed, from 1.
            asked_seconds: The pause the other side asked for, if any; nonsense is not heeded.
            uniform: A random number in [0, 1), the jitter.
        """
        # 2.0 ** 1024 overflows; the cap is reached long before.
        bound = self.initial_seconds * self.multiplier ** min(attempt - 1, 64)
        wait = min(bound, self.cap_seconds) * uniform
        if asked_seconds is None or not math.isfinite(asked_seconds):
            return wait
        return max(asked_seconds, 0.0) + wait

    def retrying(
        self,
        *,
        before_sleep: Callable[[RetryCallState], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> AsyncRetrying:
        """A tenacity object that retries on :class:`RetryableSinkError` by this policy."""

        def wait(state: RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = getattr(error, "retry_after_seconds", None)
            return self.wait_seconds(state.attempt_number, asked, uniform())

        return AsyncRetrying(
            retry=retry_if_exception_type(RetryableSinkError),
            wait=wait,
            stop=stop_never if self.attempts is None else stop_after_attempt(self.attempts),
            sleep=sleep,
            before_sleep=before_sleep,
            reraise=True,
        )


SINK_RETRY = RetryPolicy()
"""For a sink that is down: without end."""

RECONNECT = RetryPolicy(initial_seconds=0.4, cap_seconds=2.0)
"""For a link to the broker. NATS refuses a client id that returns within about a second."""


@dataclass(slots=True)
class Backoff:
    """Counts failures in a loop that is not a call to retry, such as keeping a link open."""

    policy: RetryPolicy = RECONNECT
    uniform: Callable[[], float] = random.random
    _failures: int = field(default=0)

    def reset(self) -> None:
        """It worked: the next failure is the first."""
        self._failures = 0

    def next_seconds(self) -> float:
        """Note a failure and say how long to wait; at least a quarter of the bound."""
        self._failures += 1
        return self.policy.wait_seconds(self._failures, None, 0.25 + 0.75 * self.uniform())
