"""Rate limits of a worker, from its flags and its environment; flags win."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bus.errors import ConfigError
from bus.ratelimit import Rate, RateLimits

__all__ = ["read_limits"]


def read_limits(
    sink: str,
    environ: Mapping[str, str],
    rate: str | None = None,
    burst: float | None = None,
    run_rate: str | None = None,
    kind_rates: Sequence[str] = (),
) -> RateLimits:
    """The limits of a sink: ``--rate`` and its like, else ``TRAINBUS_<SINK>_RATE`` and its like.

    Args:
        sink: Its name.
        environ: The environment.
        rate: ``20/s``, or another form of :meth:`bus.ratelimit.Rate.parse`.
        burst: Instead of the burst in ``rate``.
        run_rate: As ``rate``, for each run.
        kind_rates: ``checkpoint=4/hour`` and the like, for each run.

    Raises:
        ConfigError: One is malformed; the message names the flag or variable.
    """
    prefix = f"TRAINBUS_{re.sub(r'[^A-Z0-9]', '_', sink.upper())}"

    def variable(name: str) -> tuple[str, str | None]:
        return f"{prefix}_{name}", environ.get(f"{prefix}_{name}") or None

    sink_rate = ("--rate", rate) if rate else variable("RATE")
    sink_burst: tuple[str, str | float | None] = ("--burst", burst)
    if burst is None and rate is None:
        sink_burst = variable("BURST")
    kinds = [("--kind-rate", text) for text in kind_rates]
    if not kinds:
        name, texts = variable("KIND_RATE")
        kinds = [(name, text) for text in (texts or "").split(",") if text.strip()]
    return RateLimits(
        _with_burst(_rate(*sink_rate), sink_rate[0], *sink_burst),
        _rate(*(("--run-rate", run_rate) if run_rate else variable("RUN_RATE"))),
        dict(_kind(*pair) for pair in kinds),
    )


def _rate(name: str, text: str | None) -> Rate | None:
    if text is None:
        return None
    try:
        return Rate.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _with_burst(
    rate: Rate | None, rate_name: str, name: str, burst: str | float | None
) -> Rate | None:
    if burst is None:
        return rate
    if rate is None:
        raise ConfigError(f"{name} needs a rate: set {rate_name} too")
    try:
        return rate if rate.is_unlimited else replace(rate, burst=float(burst))
    except ValueError as error:
        raise ConfigError(f"{name}: {burst!r} is no number") from error
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _kind(name: str, text: str) -> tuple[str, Rate]:
    kind, _, value = text.partition("=")
    rate = _rate(name, value) if value else None
    if rate is None:
        raise ConfigError(f"{name}: {text!r} is no limit of a kind: use checkpoint=4/hour")
    return kind.strip(), rate
