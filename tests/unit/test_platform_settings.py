"""What the Platform sink takes from its environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.config import Settings
from bus.errors import ConfigError
from bus.ratelimit import Rate
from bus.sinks import KeepsAlive, RateLimited, ReportsState, TellsToStop
from subscribers.hub.platform.sink import PlatformSink, create_platform
from subscribers.hub.sink import create

KEY = "ul_" + "a" * 40


def make(tmp_path: Path, **environ: str) -> PlatformSink:
    environ = {"TRAINBUS_HOME": str(tmp_path), **environ}
    return create_platform(Settings.from_environment(environ), environ)


@pytest.mark.parametrize(
    "key",
    ["secret", KEY + "0", KEY[:-1], KEY.replace("ul_", "UL_"), "ul_" + "g" * 40, f"Bearer {KEY}"],
)
def test_a_malformed_key_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="ULTRALYTICS_API_KEY") as caught:
        make(tmp_path, ULTRALYTICS_API_KEY=key)
    assert key not in str(caught.value)
    assert key[3:] not in repr(caught.value)


def test_without_a_key_the_variable_to_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set ULTRALYTICS_API_KEY"):
        make(tmp_path)


def test_the_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert make(tmp_path, ULTRALYTICS_API_KEY_FILE=str(file)).name == "hub"
    file.write_text("nonsense")
    with pytest.raises(ConfigError, match="40 hexadecimal digits"):
        make(tmp_path, ULTRALYTICS_API_KEY_FILE=str(file))


@pytest.mark.parametrize(
    "url", ["ftp://host", "host", "https://u:p@host", "https://host?x=1", "https://"]
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="ULTRALYTICS_PLATFORM_URL"):
        make(tmp_path, ULTRALYTICS_API_KEY=KEY, ULTRALYTICS_PLATFORM_URL=url)


@pytest.mark.parametrize(
    ("plan", "rate"), [("", Rate(1.0, 30)), ("free", Rate(1.0, 30)), ("pro", Rate(5.0, 150))]
)
def test_the_plan_decides_what_the_sink_may_be_called(
    tmp_path: Path, plan: str, rate: Rate
) -> None:
    sink = make(tmp_path, ULTRALYTICS_API_KEY=KEY, TRAINBUS_PLATFORM_PLAN=plan)
    assert sink.rate_limits.sink == rate
    assert sink.rate_limits.kinds == {"checkpoint": Rate(1 / 900, 1)}


def test_an_unknown_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TRAINBUS_PLATFORM_PLAN='gold': use free or pro"):
        make(tmp_path, ULTRALYTICS_API_KEY=KEY, TRAINBUS_PLATFORM_PLAN="gold")


def test_the_hub_sink_is_platform_where_its_key_is_set(tmp_path: Path) -> None:
    environ = {"TRAINBUS_HOME": str(tmp_path), "ULTRALYTICS_API_KEY": KEY}
    sink = create(Settings.from_environment(environ), environ)
    assert isinstance(sink, PlatformSink)
    for protocol in (KeepsAlive, RateLimited, ReportsState, TellsToStop):
        assert isinstance(sink, protocol)
    assert KEY not in repr(vars(sink))
