"""Keys, addresses, and which service they choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bus.config import Settings
from bus.errors import ConfigError
from subscribers.hub.keys import ApiKey, read_address, read_key
from subscribers.hub.sink import create

HUB, PLATFORM = "HUB_API_KEY", "ULTRALYTICS_API_KEY"
SECRET = "secret" * 7


def settings(home: Path) -> Settings:
    return Settings.from_environment({"TRAINBUS_HOME": str(home)})


def test_a_key_shows_itself_nowhere() -> None:
    key = ApiKey(SECRET, HUB, "Authorization", "Bearer")
    assert SECRET not in f"{key} {key!r} {[key]}"
    assert str(key) == f"the key of {HUB}"
    assert key.headers() == {"Authorization": f"Bearer {SECRET}"}
    assert key.hide(f"bad key {SECRET}!") == "bad key …!"


@pytest.mark.parametrize("value", ["", "two\nlines", "tab\t", "schlüssel"])
def test_what_no_header_can_carry_is_no_key(value: str) -> None:
    with pytest.raises(ConfigError, match="HUB_API_KEY: a key is printable ASCII") as error:
        ApiKey(value, HUB, "x-api-key")
    assert not value or value not in str(error.value)


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    found = read_key({f"{HUB}_FILE": str(tmp_path / "key")}, HUB, "x-api-key")
    assert found is not None
    assert found.value == SECRET
    assert read_key({}, HUB, "x-api-key") is None


@pytest.mark.parametrize(
    "text", ["ftp://x", "x", "https://", "https://user:pw@x", "http://x?y=1", "http://x:99999"]
)
def test_an_address_is_a_plain_url(text: str) -> None:
    with pytest.raises(ConfigError, match="URL_OF_IT: use https://host") as error:
        read_address({"URL_OF_IT": text}, "URL_OF_IT", "https://x")
    assert "pw" not in str(error.value)


def test_an_address_loses_its_last_slash() -> None:
    assert read_address({"A": "http://127.0.0.1:80/hub/"}, "A", "") == "http://127.0.0.1:80/hub"
    assert read_address({}, "A", "https://x") == "https://x"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, f"set {HUB} for Ultralytics HUB, or {PLATFORM} for Ultralytics Platform"),
        ({HUB: "x", PLATFORM: "y"}, "TRAINBUS_HUB_SERVICE=hub or TRAINBUS_HUB_SERVICE=platform"),
        ({HUB: "x", "TRAINBUS_HUB_SERVICE": "neptune"}, "use hub or platform"),
        ({HUB: "x", f"{HUB}_FILE": "y"}, f"{HUB} and {HUB}_FILE are both set"),
        ({HUB: "two\nlines"}, "a key is printable"),
        ({HUB: "x", "ULTRALYTICS_HUB_API": "hub"}, "ULTRALYTICS_HUB_API: use https"),
        ({HUB: "x", "ULTRALYTICS_HUB_WEB": "hub"}, "ULTRALYTICS_HUB_WEB: use https"),
    ],
)
def test_a_wrong_environment_is_one_clear_line(
    tmp_path: Path, environ: Mapping[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        create(settings(tmp_path), environ)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "environ",
    [
        {HUB: "x"},
        {HUB: "x", PLATFORM: "y", "TRAINBUS_HUB_SERVICE": "hub"},
        {"TRAINBUS_HUB_SERVICE": "hub"},
    ],
)
def test_hub_is_chosen_by_its_key_or_by_name(tmp_path: Path, environ: Mapping[str, str]) -> None:
    more = {"ULTRALYTICS_HUB_API": "http://127.0.0.1:9"}
    sink = create(settings(tmp_path), {**environ, **more})
    assert type(sink).__name__ == "HubSink"
    assert sink.name == "hub"


def test_without_an_event_log_there_is_no_sink(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set TRAINBUS_LOG"):
        create(replace(settings(tmp_path), log=None), {HUB: "x"})


def test_the_address_of_a_service_that_is_gone_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create(settings(tmp_path), {HUB: SECRET})
    assert "HUB shut down" in caplog.text
    assert SECRET not in caplog.text
