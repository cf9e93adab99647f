"""The README's snippet runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def _snippets(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (_ROOT / name).read_text("utf-8"), re.DOTALL)


def test_the_snippet_of_the_readme_runs(tmp_path: Path) -> None:
    (snippet,) = _snippets("README.md")
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        env={
            "PYTHONPATH": str(_ROOT),
            "TRAINBUS_HOME": str(tmp_path),
            "TRAINBUS_SHIPPER": "off",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    journals = list(tmp_path.rglob("*.journal"))
    assert len(journals) == 1
    assert journals[0].read_bytes().count(b" [") == 100


def test_every_link_of_the_documents_leads_somewhere() -> None:
    pages = [*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
