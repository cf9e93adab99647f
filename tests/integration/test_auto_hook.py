"""The import hook in real interpreters, which inherit it by their environment."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from publishers.auto.environ import SITE, command_environment

HOOKS = "framework.callbacks=integration:attach,framework.callbacks=integration:other"

FRAMEWORK = "default = []\n"

INTEGRATION = """
import os
def attach(module):
    module.default.append("attached")
def other(module):
    module.default.append(os.environ.get("WORD", "other"))
def broken(module):
    raise RuntimeError("broken")
def leaving(module):
    raise SystemExit(9)
"""

SHOW = "import framework.callbacks as c; print(c.default)"

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on PYTHONPATH with a framework and an integration for it."""
    made = tmp_path / "modules"
    (made / "framework").mkdir(parents=True)
    (made / "framework" / "__init__.py").write_text("")
    (made / "framework" / "callbacks.py").write_text(FRAMEWORK)
    (made / "integration.py").write_text(INTEGRATION)
    return made


@pytest.fixture
def python(folder: Path) -> Python:
    """Runs Python as a command under ``trainbus run`` would be."""

    def call(
        *arguments: str, hooks: str = HOOKS, program: str = sys.executable, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if key[:9] != "TRAINBUS_"}
        environ = {**kept, "PYTHONPATH": str(folder), **variables}
        told = command_environment(environ, wrapper="w", hooks=hooks)
        return subprocess.run(
            [program, *arguments], env=told, capture_output=True, text=True, check=False
        )

    return call


def test_hooks_are_called_after_their_module_was_imported(python: Python) -> None:
    done = python("-c", SHOW)
    assert (done.stdout, done.stderr) == ("['attached', 'other']\n", "")


def test_nothing_is_imported_and_nothing_shows_until_a_hook_is_due(python: Python) -> None:
    program = (
        "import sys; print([m for m in sys.modules if m.split('.')[0] in "
        "('publishers', 'bus', 'integration', 'importlib.metadata', 'json')]);"
        f"print({str(SITE)!r} in sys.path, sys.argv); import framework"
    )
    done = python("-c", program, "a", "-b")
    assert (done.stdout, done.stderr) == ("[]\nFalse ['-c', 'a', '-b']\n", "")


def test_the_module_keeps_its_own_loader(python: Python) -> None:
    program = (
        "import framework.callbacks as c, inspect;"
        "print(type(c.__loader__).__name__, type(c.__spec__.loader).__name__, inspect.getsource(c))"
    )
    done = python("-c", program)
    assert done.stdout == f"SourceFileLoader SourceFileLoader {FRAMEWORK}\n"


SPAWNED = """
import multiprocessing, os, subprocess, sys
def show(_=None):
    import framework.callbacks
    return framework.callbacks.default
if __name__ == "__main__":
    for method in ("spawn", "forkserver", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, pool.map(show, [1]), flush=True)
    command = [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable,"
        " '-m', 'framework.show'])"]
    subprocess.run(command, check=True)
"""


def test_children_and_their_children_have_the_hook(
    python: Python, folder: Path, tmp_path: Path
) -> None:
    (folder / "framework" / "show.py").write_text(SHOW)
    (tmp_path / "main.py").write_text(SPAWNED)
    done = python(str(tmp_path / "main.py"))
    attached = "['attached', 'other']"
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"spawn [{attached}]",
        f"forkserver [{attached}]",
        f"fork [{attached}]",
        attached,
    ]


def test_a_module_that_runs_as_the_program_is_left_alone(python: Python, folder: Path) -> None:
    (folder / "framework" / "callbacks.py").write_text("print(__name__, __spec__.name)\n")
    done = python("-m", "framework.callbacks")
    assert (done.stdout, done.stderr) == ("__main__ framework.callbacks\n", "")


@pytest.mark.parametrize("function", ["broken", "leaving", "missing", "x.y.z"])
def test_a_broken_hook_hurts_nobody(python: Python, function: str) -> None:
    hooks = f"framework.callbacks=integration:{function},{HOOKS}"
    done = python("-c", SHOW, hooks=hooks)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['attached', 'other']\n", "")
    told = python("-c", SHOW, hooks=hooks, TRAINBUS_VERBOSE="1")
    assert told.stdout == done.stdout
    assert told.stderr.startswith(f"trainbus: hook integration:{function}: ")


@pytest.mark.parametrize("hooks", ["=", ",,,", "framework.callbacks", "a=b=c,é=x", "x=no.such:f"])
def test_a_malformed_list_of_hooks_hurts_nobody(python: Python, hooks: str) -> None:
    done = python("-c", SHOW, hooks=hooks)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_module_that_fails_to_import_fails_as_ever(python: Python, folder: Path) -> None:
    (folder / "framework" / "callbacks.py").write_text("raise ValueError('bad')\n")
    done = python("-c", SHOW)
    assert done.returncode == 1
    assert "ValueError: bad" in done.stderr
    assert "sitecustomize" not in done.stderr.replace("sitecustomize.py", "", 1)
    missing = python("-c", "import framework.nothing", hooks="framework.nothing=integration:attach")
    assert "No module named 'framework.nothing'" in missing.stderr


def test_the_users_sitecustomize_runs_as_if_it_were_alone(python: Python, folder: Path) -> None:
    program = (
        "import sys, sitecustomize as s; print(s.__file__, s.__name__, s.__spec__.name, s.seen)"
    )
    text = "import sys\nseen = [p for p in sys.path if 'auto' in p]\nprint('user')\n"
    (folder / "sitecustomize.py").write_text(text)
    done = python("-c", program + "\n" + SHOW)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "user",
        f"{folder / 'sitecustomize.py'} sitecustomize sitecustomize []",
        "['attached', 'other']",
    ]


@pytest.mark.parametrize("text", ["raise ValueError('mine')", "import no_such_module", "1 +"])
def test_a_users_sitecustomize_that_fails_says_so_as_ever(
    python: Python, folder: Path, text: str
) -> None:
    (folder / "sitecustomize.py").write_text(text + "\n")
    bare = subprocess.run(
        [sys.executable, "-c", "pass"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    done = python("-c", SHOW)
    assert "Error in sitecustomize" in bare.stderr
    assert done.stderr == bare.stderr
    assert done.stdout == "['attached', 'other']\n"


def test_another_tools_sitecustomize_in_front_of_ours_changes_nothing(
    python: Python, tmp_path: Path, folder: Path
) -> None:
    # As ddtrace-run and opentelemetry-instrument do: they import the next one themselves.
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
            import sys
            sys.path.remove({str(other)!r})
            del sys.modules["sitecustomize"]
            import sitecustomize
            print("other")
        """)
    )
    (folder / "sitecustomize.py").write_text("print('user')\n")
    path = os.pathsep.join([str(other), str(SITE), str(folder)])
    environ = {**os.environ, "PYTHONPATH": path, "TRAINBUS_HOOKS": HOOKS}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("user\nother\n['attached', 'other']\n", "")


@pytest.mark.parametrize("flags", [["-E"], ["-I"], ["-S"]])
def test_an_interpreter_told_to_ignore_us_runs_as_ever(python: Python, flags: list[str]) -> None:
    done = python(*flags, "-c", "import sys; print(sys.argv)", "x")
    assert (done.returncode, done.stdout, done.stderr) == (0, "['-c', 'x']\n", "")


def test_a_virtual_environment_without_trainbus_runs_as_ever(
    python: Python, tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    program = str(tmp_path / "venv" / "bin" / "python")
    hooks = f"framework.callbacks=publishers.nothing:hook,{HOOKS}"
    done = python("-c", SHOW, program=program, hooks=hooks)
    assert (done.returncode, done.stdout, done.stderr) == (0, "['attached', 'other']\n", "")


def test_a_working_folder_that_is_gone_hurts_nobody(python: Python, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {sys.executable} -c 'print(1)'"
    done = python("-c", script, program="bash")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_integrations_are_found_by_their_entry_points(folder: Path, tmp_path: Path) -> None:
    info = folder / "integration-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: integration\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[trainbus.hooks]\nframework.callbacks = integration:attach\n"
    )
    kept = {key: value for key, value in os.environ.items() if key[:9] != "TRAINBUS_"}
    environ = {**kept, "PYTHONPATH": str(folder), "TRAINBUS_HOME": str(tmp_path)}
    command = [str(Path(sys.executable).with_name("trainbus")), "run", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-c", SHOW],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['attached']\n", "")
