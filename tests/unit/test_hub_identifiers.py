"""How a run names its model in HUB."""

from __future__ import annotations

import pytest

from bus.errors import PermanentSinkError
from subscribers.hub.v1.identifiers import parse_identifier

WEB = "https://hub.example.com"
KEY = "a1" * 21
ID = "b2" * 10


@pytest.mark.parametrize(
    ("text", "model", "key"),
    [
        (f"{WEB}/models/{ID}", ID, None),
        (f"{WEB}/models/{ID}/", ID, None),
        (f" {WEB}/models/{ID}?api_key={KEY}\n", ID, KEY),
        (f"{WEB}/models/{ID}?utm=x&api_key={KEY}#top", ID, KEY),
        (f"{WEB}/models/{ID}?api_key=", ID, None),
        (f"{KEY}_{ID}", ID, KEY),
        (ID, ID, None),
    ],
)
def test_a_model_that_exists_is_named_in_several_forms(
    text: str, model: str, key: str | None
) -> None:
    found = parse_identifier(text, WEB)
    assert (found.model, found.file) == (model, None)
    assert (found.key and found.key.value) == key


@pytest.mark.parametrize("text", ["yolo11n.yaml", "yolo11n.pt", "/data/runs/a b/last.pt", "é.pt"])
def test_a_new_model_begins_from_a_file(text: str) -> None:
    assert parse_identifier(text, WEB).file == text


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yolo11n.onnx",
        "yolo11n",
        ID[:-1],
        f"{ID}x",
        f"{KEY[:-1]}_{ID}",
        f"{KEY}-{ID}",
        f"{WEB}/models/",
        f"{WEB}/models/a/b",
        f"{WEB}/models/..%2f{ID}",
        f"{WEB}/datasets/{ID}",
        f"https://elsewhere.example.com/models/{ID}",
        f"{WEB}.evil.example.com/models/{ID}",
        f"https://x/last.pt?api_key={KEY}",
        "two\nlines.pt",
        None,
        7,
        {"model": ID},
    ],
)
def test_anything_else_is_refused_with_what_there_is(value: object) -> None:
    with pytest.raises(PermanentSinkError) as error:
        parse_identifier(value, WEB)
    assert f"use {WEB}/models/ID, KEY_ID, ID, or a .pt or .yaml file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        f"{WEB}/model/{ID}?api_key={KEY}",
        f"https://{KEY}@elsewhere.example.com/models/{ID}",
        f"{KEY}_{ID}_",
        f"{KEY}",
        f"key {KEY}",
        f"{WEB}/models/{ID}?api_key=a%0Ab",
    ],
)
def test_a_key_is_in_no_message(text: str) -> None:
    with pytest.raises(PermanentSinkError) as error:
        parse_identifier(text, WEB)
    assert KEY not in str(error.value)
    assert "api_key" not in str(error.value)


def test_a_key_is_in_no_repr() -> None:
    assert KEY not in repr(parse_identifier(f"{KEY}_{ID}", WEB))
