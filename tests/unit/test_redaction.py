"""Keys that stand in what is logged are not written anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

import publishers
from bus.config import Settings
from publishers.redaction import without_keys

KEY, MODEL = "k" * 42, "m" * 20
PLATFORM_KEY = "ul_" + "0a" * 20


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"{KEY}_{MODEL}", MODEL),
        (f"https://hub/models/{MODEL}?api_key={KEY}", f"https://hub/models/{MODEL}"),
        (f"https://hub/models/{MODEL}?api_key={KEY}&a=1", f"https://hub/models/{MODEL}?a=1"),
        (
            f"https://hub/models/{MODEL}?a=1&api_key={KEY}#top",
            f"https://hub/models/{MODEL}?a=1#top",
        ),
        (f"login {PLATFORM_KEY}!", "login ul_…!"),
        (f"{MODEL}", MODEL),
        ("api_key=", "api_key="),
        ("full_name", "full_name"),
        (f"{'k' * 41}_{MODEL}", f"{'k' * 41}_{MODEL}"),
    ],
)
def test_a_key_is_taken_out_and_the_rest_is_left(text: str, left: str) -> None:
    assert without_keys(text) == left


def test_no_file_of_a_run_holds_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINBUS_SHIPPER", "off")
    identifier, url = f"{KEY}_{MODEL}", f"https://hub/models/{MODEL}?api_key={KEY}"
    run = publishers.start_run(
        project="p",
        params={"model": identifier, "nested": {"urls": [url]}},
        config={"hub": url, "key": PLATFORM_KEY},
        options={"hub": {"model": identifier}},
        tags={"from": url},
        settings=Settings.from_environment({"TRAINBUS_HOME": str(tmp_path)}),
    )
    run.params({"again": url})
    run.tags({"again": PLATFORM_KEY})
    run.finish(timeout=0)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert MODEL.encode() in written
    assert KEY.encode() not in written
    assert PLATFORM_KEY.encode() not in written
