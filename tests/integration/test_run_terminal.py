"""``trainbus run`` in a terminal, with an interactive shell around it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

TRAINBUS = str(Path(sys.executable).with_name("trainbus"))

COUNT = """
import signal, sys, time
count = 0
def note(*_):
    global count
    count += 1
    print("interrupt", count, flush=True)
signal.signal(signal.SIGINT, note)
print("tty", sys.stdout.isatty(), sys.stdin.isatty(), flush=True)
end = time.monotonic() + 30
while time.monotonic() < end and count < 2:
    time.sleep(0.05)
sys.exit(5)
"""

SIZE = """
import os, signal, time
sizes = []
signal.signal(signal.SIGWINCH, lambda *_: sizes.append(os.get_terminal_size(1)))
print("ready", flush=True)
end = time.monotonic() + 20
while time.monotonic() < end and not (sizes and sizes[-1].columns == 123):
    time.sleep(0.02)
print("%dx%d" % sizes[-1] if sizes else "never", flush=True)
"""


class Terminal:
    """A shell in a terminal of its own, typed to and read from."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environ)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str, seconds: float = 20.0) -> str:
        """Wait until it is shown, behind what was waited for before; gives what came before it."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TRAINBUS_")}
    home = {"TRAINBUS_HOME": str(tmp_path / "home"), "TRAINBUS_SHIPPER": "off"}
    (tmp_path / "count.py").write_text(COUNT)
    (tmp_path / "size.py").write_text(SIZE)
    opened = Terminal({**kept, **home, "PS1": "$ ", "TERM": "dumb", "D": str(tmp_path)})
    yield opened
    opened.close()


@pytest.mark.parametrize("mode", ["", "--console"])
def test_ctrl_c_reaches_the_command_once_and_the_shell_sees_its_status(
    terminal: Terminal, mode: str
) -> None:
    terminal.type(f"{TRAINBUS} run {mode} -- {sys.executable} $D/count.py; echo status=$?\n")
    terminal.wait_for("tty True True")
    terminal.type("\x03")
    terminal.wait_for("interrupt 1")
    time.sleep(0.3)
    assert "interrupt 2" not in terminal.seen
    terminal.type("\x03")
    terminal.wait_for("interrupt 2")
    terminal.wait_for("status=5")


@pytest.mark.parametrize("mode", ["", "--console"])
def test_ctrl_c_that_kills_the_command_ends_the_loop_of_a_shell(
    terminal: Terminal, mode: str
) -> None:
    terminal.type(
        f"for i in 1 2 3; do {TRAINBUS} run {mode} -- "
        "bash -c 'trap - INT; echo be''gun; exec sleep 30'; done; echo en''ded $?\n"
    )
    terminal.wait_for("begun")
    terminal.type("\x03")
    terminal.wait_for("$ ")
    terminal.type("echo alive=$?\n")
    terminal.wait_for("alive=130")


@pytest.mark.parametrize("mode", ["", "--console"])
def test_ctrl_z_stops_the_job_and_fg_goes_on_with_it(terminal: Terminal, mode: str) -> None:
    script = "echo be''gun; read line; echo got=$line; exit 4"
    terminal.type(f"{TRAINBUS} run {mode} -- bash -c '{script}'\n")
    terminal.wait_for("begun\r\n")
    terminal.type("\x1a")
    terminal.wait_for("Stopped")
    terminal.type("fg\n")
    terminal.wait_for("trainbus run")
    terminal.type("hello\n")
    terminal.wait_for("got=hello")
    terminal.type("echo status=$?\n")
    terminal.wait_for("status=4")


@pytest.mark.parametrize("mode", ["", "--console"])
def test_a_terminal_that_changes_its_size_is_noticed(terminal: Terminal, mode: str) -> None:
    terminal.type(f"{TRAINBUS} run {mode} -- {sys.executable} $D/size.py; echo e''nd\n")
    terminal.wait_for("ready")
    fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 123, 0, 0))
    terminal.wait_for("123x41")
    terminal.wait_for("end")


def test_what_is_shown_is_the_same_with_console(terminal: Terminal) -> None:
    show = (
        'stty size; tty -s && echo terminal; printf "a\\r\\nb\\n"; echo e >&2; '
        'printf "\\033[1mx\\n"'
    )
    terminal.type("stty rows 33 cols 77\n")
    shown = []
    for before in ("", f"{TRAINBUS} run -- ", f"{TRAINBUS} run --console -- "):
        terminal.type(f"echo sta''rt; {before}bash -c '{show}'; echo e''nd\n")
        terminal.wait_for("start\r\n")
        shown.append(terminal.wait_for("end\r\n"))
        terminal.wait_for("$ ")
    assert shown[0] == shown[1] == shown[2]
