"""Hyperparameters as the SDK writes them: flat, as text, with the name of their type. Pure.

``Task.connect`` of clearml 2.1: a dict inside a dict becomes names with slashes, lists and tuples
become JSON, None an empty text without a type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from subscribers.clearml.names import param_name, section_name

__all__ = ["Param", "params_of"]

_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Param:
    """One hyperparameter or user property, as ``tasks.edit_hyper_params`` takes it."""

    section: str
    name: str
    value: str
    type: str | None = None

    @property
    def item(self) -> dict[str, str]:
        """The item of the request."""
        item = {"section": self.section, "name": self.name, "value": self.value, "description": ""}
        if self.type is not None:
            item["type"] = self.type
        return item


def params_of(section: str, params: Mapping[str, Any]) -> Iterator[Param]:
    """The hyperparameters of a section."""
    section = section_name(section)
    for name, value in _flat(params):
        yield Param(section, param_name(section, name), _text_of(value), _type_of(value))


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _text_of(value: Any) -> str:
    if value is None or value == {}:
        return ""
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _type_of(value: Any) -> str | None:
    if isinstance(value, list):
        kinds = {type(item).__name__ for item in value}
        return f"list/{kinds.pop()}" if len(kinds) == 1 else "list"
    return type(value).__name__ if isinstance(value, _SCALARS) else None
