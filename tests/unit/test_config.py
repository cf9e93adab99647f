"""Settings: defaults, secrets in files, and one clear line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.config import BrokerAddress, Settings, read_variable
from bus.errors import ConfigError


def settings(tmp_path: Path, **environ: str) -> Settings:
    return Settings.from_environment({"TRAINBUS_HOME": str(tmp_path), **environ})


def test_everything_lies_in_the_data_folder_by_default(tmp_path: Path) -> None:
    made = settings(tmp_path)
    assert made.broker == BrokerAddress("localhost", 1883)
    assert made.log == f"sqlite:///{tmp_path}/log.db"
    assert made.store == tmp_path.joinpath("store").as_uri()
    assert made.spool.parent == tmp_path / "spool"
    assert made.topics.prefix == "trainbus/v1"


def test_the_data_folder_is_the_state_folder_of_the_user_by_default(tmp_path: Path) -> None:
    made = Settings.from_environment({"XDG_STATE_HOME": str(tmp_path)})
    assert made.home == tmp_path / "trainbus"
    assert Settings.from_environment({}).home == Path.home() / ".local/state/trainbus"


def test_every_variable_is_read(tmp_path: Path) -> None:
    made = settings(
        tmp_path,
        TRAINBUS_BROKER="mqtts://ann:p%40ss@broker.example:8884",
        TRAINBUS_LOG="postgresql://db/log",
        TRAINBUS_STORE="s3://bucket/place",
        TRAINBUS_SPOOL="/scratch/spool",
        TRAINBUS_PREFIX="team/v1",
    )
    assert made.broker == BrokerAddress("broker.example", 8884, True, "ann", "p@ss")
    assert (made.log, made.store) == ("postgresql://db/log", "s3://bucket/place")
    assert made.spool == Path("/scratch/spool")
    assert made.prefix == "team/v1"


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    made = settings(tmp_path, TRAINBUS_BROKER="", TRAINBUS_PREFIX="", TRAINBUS_LOG="")
    assert made == settings(tmp_path)


def test_a_relative_spool_and_a_home_sign_become_absolute(tmp_path: Path) -> None:
    assert settings(tmp_path, TRAINBUS_SPOOL="here").spool == Path.cwd() / "here"
    assert settings(tmp_path, TRAINBUS_SPOOL="~/s").spool == Path.home() / "s"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://localhost", BrokerAddress("localhost", 1883)),
        ("mqtts://b.example/", BrokerAddress("b.example", 8883, True)),
        ("mqtt://[::1]:1884", BrokerAddress("::1", 1884)),
        ("mqtt://u@h", BrokerAddress("h", 1883, username="u")),
    ],
)
def test_a_broker_address_is_read(url: str, address: BrokerAddress) -> None:
    assert BrokerAddress.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "localhost:1883",
        "http://localhost",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://h:0x75b",
        "mqtt://h:99999",
        "mqtt://h/path",
        "mqtt://[::1",
        "broker",
    ],
)
def test_a_malformed_broker_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match=r"mqtt://\[user:password@\]host:port"):
        BrokerAddress.parse(url)


@pytest.mark.parametrize(
    "url",
    ["mqtt://ann:secret@h/x", "mqtt://ann:sec/ret@h", "mqtt://ann:s@ecret@h/x", "ftp://a:secret@h"],
)
def test_a_password_never_appears_in_a_message(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerAddress.parse(url)
    message = str(caught.value)
    assert not any(part in message for part in ("secret", "ecret", "sec/", "'sec'", "ret@"))


def test_an_address_is_printed_without_user_and_password() -> None:
    assert str(BrokerAddress.parse("mqtts://ann:secret@h:1")) == "mqtts://h:1"


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("10.0.0.1", False), ("b", False)],
)
def test_a_broker_on_this_machine_is_known_by_its_name(host: str, is_local: bool) -> None:
    assert BrokerAddress(host, 1883).is_local is is_local


def test_a_secret_can_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "broker"
    secret.write_text("mqtt://ann:secret@h\n")
    assert settings(tmp_path, TRAINBUS_BROKER_FILE=str(secret)).broker.password == "secret"


def test_a_secret_in_a_file_that_cannot_be_read_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TRAINBUS_LOG_FILE: cannot read"):
        settings(tmp_path, TRAINBUS_LOG_FILE=str(tmp_path / "nowhere"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="TRAINBUS_LOG_FILE: cannot read"):
        settings(tmp_path, TRAINBUS_LOG_FILE=str(tmp_path / "binary"))


def test_a_variable_and_its_file_cannot_both_be_set() -> None:
    with pytest.raises(ConfigError, match="A and A_FILE are both set"):
        read_variable({"A": "1", "A_FILE": "f"}, "A")


def test_a_wrong_prefix_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"TRAINBUS_PREFIX: .*A-Za-z0-9"):
        settings(tmp_path, TRAINBUS_PREFIX="a/+/b")
