"""Keys of services that stand in what people log: taken out before it is written anywhere.

Identifiers of models in Ultralytics HUB may hold the owner's key (``KEY_ID``,
``…/models/ID?api_key=KEY``), and both are arguments of a training. What is logged is read by many:
the event log, every tracker, dead letters. The worker has keys of its own.
"""

from __future__ import annotations

import re

__all__ = ["without_keys"]

_IDENTIFIER = re.compile(r"[A-Za-z0-9]{42}_([A-Za-z0-9]{20})", re.ASCII)
_IDENTIFIER_LENGTH = 63
_PARAMETER = re.compile(r"([?&])api_key=[^&#\s]*(&?)", re.ASCII)
_PLATFORM_KEY = re.compile(r"\bul_[0-9a-f]{40}\b", re.ASCII)


def without_keys(text: str) -> str:
    """A text without the keys of Ultralytics HUB and Platform that stand in it.

    Of an identifier of HUB the model is left.
    """
    if len(text) == _IDENTIFIER_LENGTH and (found := _IDENTIFIER.fullmatch(text)):
        return found[1]
    if "api_key=" in text:
        text = _PARAMETER.sub(lambda found: found[1] if found[2] else "", text)
    if "ul_" in text:
        text = _PLATFORM_KEY.sub("ul_…", text)
    return text
