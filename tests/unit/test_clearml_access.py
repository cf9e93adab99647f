"""Whether ClearML is written to live, where, and with which keys."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from bus.config import Settings
from bus.errors import ConfigError
from bus.sinks import Sink, load_sink
from subscribers.clearml.access import Access, Choice, choose
from subscribers.clearml.sink import create

pytestmark = pytest.mark.filterwarnings(
    # clearml 2.1's reader of HOCON with pyparsing 3.3.
    "ignore:.* deprecated.* use '[a-z_]+':DeprecationWarning"
)

KEYS = {
    "CLEARML_API_HOST": "http://api:8008/",
    "CLEARML_API_ACCESS_KEY": "the key",
    "CLEARML_API_SECRET_KEY": "the secret",
}
CONF = """
api {
    api_server: "http://conf:8008"
    files_server: "http://conf:8081"
    credentials { access_key: "conf key", secret_key: "conf secret" }
}
"""


def chosen(tmp_path: Path, **environ: str) -> Choice:
    return choose(environ, tmp_path)


def test_without_keys_it_is_offline_and_says_why(tmp_path: Path) -> None:
    choice = chosen(tmp_path)
    assert choice.access is None
    assert "no keys" in choice.why


def test_keys_in_the_environment_make_it_live(tmp_path: Path) -> None:
    access = chosen(tmp_path, **KEYS, CLEARML_FILES_HOST="http://files").access
    assert access is not None
    assert (access.api_host, access.files_host) == ("http://api:8008", "http://files")
    assert (access.access_key, access.secret_key) == ("the key", "the secret")
    assert str(access) == "http://api:8008"


def test_keys_without_a_host_are_for_clearmls_own_server(tmp_path: Path) -> None:
    environ = {name: value for name, value in KEYS.items() if name != "CLEARML_API_HOST"}
    access = chosen(tmp_path, **environ).access
    assert access is not None
    assert (access.api_host, str(access)) == ("", "https://api.clear.ml")


def test_former_names_files_of_secrets_and_tokens_count_as_well(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    access = chosen(
        tmp_path, TRAINS_API_ACCESS_KEY="k", CLEARML_API_SECRET_KEY_FILE=str(secret)
    ).access
    assert access is not None
    assert (access.access_key, access.secret_key) == ("k", "from a file")
    access = chosen(tmp_path, CLEARML_AUTH_TOKEN="t").access
    assert access is not None
    assert access.token == "t"


@pytest.mark.parametrize("missing", ["CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY"])
def test_half_of_the_keys_is_a_wrong_setting(tmp_path: Path, missing: str) -> None:
    environ = {name: value for name, value in KEYS.items() if name != missing}
    with pytest.raises(ConfigError, match=f"by half.*{missing}"):
        chosen(tmp_path, **environ)


def test_clearml_conf_is_found_in_the_home_folder_and_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").write_text(CONF)
    access = chosen(tmp_path).access
    assert access is not None
    assert (access.api_host, access.files_host) == ("http://conf:8008", "http://conf:8081")
    assert (access.access_key, access.secret_key) == ("conf key", "conf secret")
    assert access.source == str(tmp_path / "clearml.conf")

    other = tmp_path / "other.conf"
    other.write_text(CONF.replace("conf:8008", "other:8008"))
    access = chosen(tmp_path, CLEARML_CONFIG_FILE=str(other)).access
    assert access is not None
    assert access.api_host == "http://other:8008"
    # As with the SDK, a file that is named and not there is none.
    assert chosen(tmp_path, CLEARML_CONFIG_FILE=str(tmp_path / "no.conf")).access is None


def test_the_environment_goes_before_the_file_and_they_complete_each_other(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").write_text(CONF)
    access = chosen(tmp_path, CLEARML_API_HOST="http://env:8008").access
    assert access is not None
    assert (access.api_host, access.access_key) == ("http://env:8008", "conf key")
    access = chosen(tmp_path, CLEARML_API_ACCESS_KEY="env key").access
    assert access is not None
    assert (access.access_key, access.secret_key) == ("env key", "conf secret")


def test_a_broken_file_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "clearml.conf").write_text("api { credentials {")
    with pytest.raises(ConfigError, match=r"clearml\.conf"):
        chosen(tmp_path)


def test_it_can_be_forced(tmp_path: Path) -> None:
    assert chosen(tmp_path, **KEYS, TRAINBUS_CLEARML="offline").access is None
    assert chosen(tmp_path, **KEYS, CLEARML_OFFLINE_MODE="1").access is None
    live = chosen(tmp_path, **KEYS, CLEARML_OFFLINE_MODE="1", TRAINBUS_CLEARML="live")
    assert live.access is not None
    with pytest.raises(ConfigError, match="CLEARML_API_ACCESS_KEY"):
        chosen(tmp_path, TRAINBUS_CLEARML="live")
    with pytest.raises(ConfigError, match="TRAINBUS_CLEARML='maybe'"):
        chosen(tmp_path, TRAINBUS_CLEARML="maybe")


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "1e9"])
def test_a_timeout_that_makes_no_sense_is_a_wrong_setting(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="TRAINBUS_CLEARML_TIMEOUT"):
        chosen(tmp_path, **KEYS, TRAINBUS_CLEARML_TIMEOUT=text)


def test_secrets_are_not_shown() -> None:
    shown = repr(Access("http://h", "the key", "the secret", "the token"))
    assert not {"the key", "the secret", "the token"} & set(shown.split("'"))


def made(tmp_path: Path, **environ: str) -> Sink:
    environ |= {"TRAINBUS_HOME": str(tmp_path), "CLEARML_CONFIG_FILE": str(tmp_path / "none")}
    return create(Settings.from_environment(environ), environ)


def test_one_line_says_which_sink_it_is_and_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        live, offline = made(tmp_path, **KEYS), made(tmp_path)
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "clearml: live at http://api:8008: keys found in the environment"
    assert second.startswith(f"clearml: offline in {tmp_path}")
    assert "no keys for ClearML" in second
    assert (live.name, offline.name) == ("clearml", "clearml")
    assert live.kinds == offline.kinds
    asyncio.run(live.close())
    asyncio.run(offline.close())


def test_the_sink_is_found_by_its_name(tmp_path: Path) -> None:
    environ = {"TRAINBUS_HOME": str(tmp_path), "TRAINBUS_CLEARML": "offline"}
    sink = load_sink("clearml", Settings.from_environment(environ), environ)
    assert sink.name == "clearml"
    asyncio.run(sink.close())
