#!/usr/bin/env bash
# Builds the wheel and tries it where nothing else is installed: what a training node gets.
# Usage: scripts/check-wheel.sh PYTHON
set -euo pipefail

python=$(realpath --no-symlinks "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf "$root/dist"
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$root/dist" "$root"
"$python" -m venv "$work/venv"
bin=$work/venv/bin
"$bin/python" -m pip --disable-pip-version-check install --quiet \
    --constraint "$root/constraints.txt" "$root"/dist/trainbus-*.whl

# From another folder: the wheel is meant, not the source beside it.
cd "$work"
"$bin/python" - <<'PROGRAM'
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import bus
import publishers
import subscribers

for package in (bus, publishers, subscribers):
    folder = Path(package.__file__).parent
    assert Path(sys.prefix) in folder.parents, f"{package.__name__} comes from {folder}"
    assert (folder / "py.typed").is_file(), f"{package.__name__} lost its py.typed"
unwanted = {"mlflow", "sqlalchemy", "aiohttp", "numpy", "psycopg"}
found = {one for one in unwanted if find_spec(one)}
assert not found, f"a bare install brings {', '.join(sorted(found))}"
names = sorted(one.metadata["Name"] for one in distributions())
print(f"a bare install is {len(names)} packages: {', '.join(names)}")
PROGRAM
"$bin/trainbus" --version
"$bin/trainbus" --help >/dev/null
"$bin/trainbus" schema metrics >/dev/null
