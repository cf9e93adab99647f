"""What the bus calls a project or a run, as Platform names it. Pure.

Platform's own client makes the names of its URLs itself, and so do we, by the same rule: small
letters, digits and hyphens, at most 128 of them. A project may name its owner, ``owner/project``;
without one it is the owner of the key.
"""

from __future__ import annotations

import re
from zlib import crc32

__all__ = ["model_name", "project_name"]

_OTHERS = re.compile(r"[^a-z0-9\s-]")
_GAPS = re.compile(r"-+")
_MAX_CHARACTERS = 128


def project_name(project: str) -> str:
    """``a/b`` keeps its owner ``a``; any other text is one name."""
    owner, separator, rest = project.partition("/")
    if not separator:
        return _slug(project, "project")
    return f"{owner}/{_slug(rest.replace('/', '-'), 'project')}"


def model_name(run_name: str) -> str:
    """The name of a run's model; Platform counts those of one name, as train and train-2."""
    return _slug(run_name, "run")


def _slug(text: str, kind: str) -> str:
    kept = _OTHERS.sub("", text.lower()).replace(" ", "-")
    slug = _GAPS.sub("-", kept).strip("-")[:_MAX_CHARACTERS]
    # Nothing may be left, of Chinese for one: two such names are still two.
    return slug or f"{kind}-{crc32(text.encode('utf-8', 'surrogatepass')):08x}"
