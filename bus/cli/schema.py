"""``trainbus schema``."""

from __future__ import annotations

from typing import Annotated

import typer

from bus.cli.common import parse_kinds, print_json
from bus.config import Settings
from bus.errors import ConfigError
from bus.schema import asyncapi_document, event_schema, events_schema

__all__ = ["schema"]


def schema(
    kind: Annotated[
        str | None, typer.Argument(help="Only this kind of event; by default all of them.")
    ] = None,
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="Print the AsyncAPI 3 document instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the events."""
    if asyncapi and kind:
        raise ConfigError("--asyncapi describes all kinds: leave the kind out")
    if asyncapi:
        print_json(asyncapi_document(Settings.from_environment().prefix))
    elif kind:
        parse_kinds([kind])
        print_json(event_schema(kind))
    else:
        print_json(events_schema())
