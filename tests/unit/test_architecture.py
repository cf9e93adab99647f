"""What the folders promise: who may import whom, what is public, how large a file may be."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.fixtures.missing import missing

ROOT = Path(__file__).parents[2]
PACKAGES = ("bus", "publishers", "subscribers")
MAX_LINES = 400

ALLOWED = {
    "bus": {"bus"},
    "publishers": {"publishers", "bus"},
    "subscribers": {"subscribers", "bus"},
}

SINK_SIDE_ONLY = ("sqlalchemy", "psycopg", "mlflow", "aiohttp", "pyarrow", "numpy", "pandas")
"""What a training node has not installed."""


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
SCRIPTS = {"publishers.examples"}
"""Packages of examples: programs of a user, which may import what a user has installed."""


def is_product(module: str) -> bool:
    return not any(module == one or module.startswith(f"{one}.") for one in SCRIPTS)


MODULES = sorted(filter(is_product, FILES))


def imported_by(node: ast.AST, module: str) -> Iterator[str]:
    """The modules that one import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}: relative imports hide who imports whom"
        name = node.module or ""
        for alias in node.names:
            inner = f"{name}.{alias.name}"
            yield inner if inner in FILES else name


def imports(module: str, *, at_load: bool) -> set[str]:
    """Modules that a module imports: all, or only when it is itself loaded."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_load and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        found.update(imported_by(node, module))
        waiting += ast.iter_child_nodes(node)
    return found


def first_level(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(FILES))
def test_the_import_rule_is_kept(module: str) -> None:
    used = {first_level(one) for one in imports(module, at_load=False)} & set(PACKAGES)
    assert used <= ALLOWED[first_level(module)]


def test_no_module_imports_itself_over_others() -> None:
    graph = {m: {one for one in imports(m, at_load=True) if one in FILES} - {m} for m in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


def test_one_module_knows_the_mqtt_client() -> None:
    clients = {"aiomqtt", "paho"}
    users = {m for m in FILES if {first_level(i) for i in imports(m, at_load=False)} & clients}
    assert users == {"bus.mqtt"}


@pytest.mark.parametrize(
    "file",
    sorted(
        str(file.relative_to(ROOT))
        for p in (*PACKAGES, "tests")
        for file in (ROOT / p).rglob("*.py")
    ),
)
def test_no_file_is_too_long(file: str) -> None:
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def export_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts ``__all__`` (RUF022)."""
    if name.isupper():
        return 0, name
    return (1 if name[:1].isupper() else 2), name


@pytest.mark.parametrize("module", MODULES)
def test_the_exports_are_sorted_and_real(module: str) -> None:
    loaded = load(module)
    exported = getattr(loaded, "__all__", None)
    assert loaded.__doc__, f"{module} does not say what it is for"
    if exported is None:
        assert not public_names(module), f"{module} has public names and no __all__"
        return
    assert list(exported) == sorted(set(exported), key=export_order)
    assert [name for name in exported if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_exported_class_and_function_is_documented(module: str) -> None:
    loaded = load(module)
    for name in getattr(loaded, "__all__", ()):
        value = getattr(loaded, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{module}.{name}"


def load(module: str) -> object:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and first_level(error.name) not in PACKAGES:
            missing(error.name, f"{module} needs it: install the extra all")
        raise


def public_names(module: str) -> list[str]:
    """Classes and functions that a module defines without an underscore."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


@pytest.mark.parametrize("package", ["publishers", "bus.mqtt", "bus.events", "bus.cli.main"])
def test_the_training_side_loads_nothing_of_a_sink(package: str) -> None:
    program = f"import sys, {package}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert not set(done.stdout.split()) & set(SINK_SIDE_ONLY)
