"""``trainbus run`` around real commands: its exit status, signals and output are the command's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.processes import Process, Processes, wait_until
from tests.fixtures.spool import Spool

TRAINBUS = str(Path(sys.executable).with_name("trainbus"))

SAY_SIGNALS = """
import signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), note)
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""

BINARY = "import os,sys; data = bytes(range(256)) * 4096; sys.stdout.buffer.write(data)"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TRAINBUS_")}
    return {
        **kept,
        "TRAINBUS_HOME": str(tmp_path / "home"),
        "TRAINBUS_SPOOL": str(tmp_path / "spool"),
        "TRAINBUS_SHIPPER": "off",
    }


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def call(
    environ: dict[str, str], *arguments: str, **options: object
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]  # options are passed on
        [TRAINBUS, "run", *arguments], env=environ, capture_output=True, check=False, **options
    )


@pytest.mark.parametrize("mode", [[], ["--console"]])
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 77", 77),
        ("exit 255", 255),
        ("kill -TERM $$", -signal.SIGTERM),
        ("kill -KILL $$", -signal.SIGKILL),
        ("kill -SEGV $$", -signal.SIGSEGV),
        ("kill -PIPE $$", -signal.SIGPIPE),
    ],
)
def test_the_end_is_that_of_the_command(
    environ: dict[str, str], script: str, status: int, mode: list[str]
) -> None:
    assert call(environ, *mode, "--", "bash", "-c", script).returncode == status


@pytest.mark.parametrize("mode", [[], ["--console"]])
def test_a_command_that_is_not_there_or_cannot_be_run_ends_as_in_a_shell(
    environ: dict[str, str], tmp_path: Path, mode: list[str]
) -> None:
    missing = call(environ, *mode, "--", "no-such-program")
    assert missing.returncode == 127
    assert missing.stderr == b"trainbus: no-such-program: command not found\n"
    assert call(environ, *mode, "--", str(tmp_path / "none")).returncode == 127
    plain = tmp_path / "plain"
    plain.write_text("exit 9\n")
    assert call(environ, *mode, "--", str(plain)).returncode == 126
    assert call(environ, *mode, "--", str(tmp_path)).returncode == 126
    plain.chmod(0o755)
    # Without a first line that names an interpreter, as shells do.
    assert call(environ, *mode, "--", str(plain), "argument").returncode == 9


def test_without_a_command_the_usage_is_shown(environ: dict[str, str]) -> None:
    done = call(environ)
    assert done.returncode == 2
    assert b"CMD" in done.stderr


def test_arguments_reach_the_command_as_they_are(environ: dict[str, str]) -> None:
    words = ["--project", "x", "--", "-v", "a b", "", "--run-id=3", "é"]
    program = "import sys; print(sys.argv[1:])"
    done = call(environ, "--project", "p", "--", sys.executable, "-c", program, *words)
    assert done.stdout.decode() == f"{words}\n"
    assert call(environ, sys.executable, "-c", program, *words).stdout == done.stdout


@pytest.mark.parametrize("mode", [[], ["--console"], ["--console", "--system"]])
def test_output_and_input_pass_unchanged(environ: dict[str, str], mode: list[str]) -> None:
    expected = bytes(range(256)) * 4096
    done = call(environ, *mode, "--", sys.executable, "-c", BINARY)
    assert (done.stdout, done.stderr) == (expected, b"")
    echoed = call(environ, *mode, "--", "bash", "-c", "cat; echo -n error >&2", input=expected)
    assert (echoed.stdout, echoed.stderr) == (expected, b"error")


@pytest.mark.parametrize("mode", [[], ["--console"]])
def test_output_and_error_in_one_file_keep_their_order(
    environ: dict[str, str], tmp_path: Path, mode: list[str]
) -> None:
    script = "for i in $(seq 200); do echo out $i; echo err $i >&2; done"
    with (tmp_path / "log").open("wb") as log:
        command = [TRAINBUS, "run", *mode, "--", "bash", "-c", script]
        subprocess.run(command, env=environ, stdout=log, stderr=log, check=True)
    expected = "".join(f"out {i}\nerr {i}\n" for i in range(1, 201))
    assert (tmp_path / "log").read_text() == expected


def test_a_reader_that_leaves_ends_the_command(environ: dict[str, str]) -> None:
    for mode in ([], ["--console"]):
        command = [TRAINBUS, "run", *mode, "--", "yes"]
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.wait(20) == -signal.SIGPIPE


def test_a_process_left_behind_does_not_hold_up_the_end(environ: dict[str, str]) -> None:
    # Its output is read to the end only by who waits for it.
    command = [TRAINBUS, "run", "--console", "--", "bash", "-c", "sleep 60 & echo $!; exit 5"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        sleeper = int(process.stdout.readline())
        try:
            assert process.wait(20) == 5
        finally:
            os.kill(sleeper, signal.SIGKILL)


def wrapped(processes: Processes, environ: dict[str, str], *command: str) -> Process:
    ours = {key: value for key, value in environ.items() if key.startswith("TRAINBUS_")}
    return processes.trainbus("run", "--", *command, environ=ours)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"])
def test_signals_reach_the_command_once(
    processes: Processes, environ: dict[str, str], name: str
) -> None:
    process = wrapped(processes, environ, sys.executable, "-c", SAY_SIGNALS, name)
    wait_until(lambda: "ready" in process.stdout, 20, "the command")
    for count in (1, 2):
        process.send_signal(signal.Signals[name])
        wait_until(lambda n=count: process.stdout.count(f"got {name}") == n, 10, "the signal")  # type: ignore[misc]  # bound for mypy
    assert process.is_running


def test_a_command_that_a_passed_signal_kills_takes_the_wrapper_along(
    processes: Processes, environ: dict[str, str]
) -> None:
    process = wrapped(processes, environ, "sleep", "60")
    wait_until(lambda: children_of(process.pid), 20, "the command")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_without_a_shell_to_go_on_with_it_the_wrapper_does_not_stop(
    processes: Processes, environ: dict[str, str]
) -> None:
    process = wrapped(processes, environ, "sleep", "60")
    (child,) = wait_until(lambda: children_of(process.pid), 20, "the command")
    process.send_signal(signal.SIGTSTP)
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: state_of(child) == "T", 10, "a stopped command")
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: state_of(child) == "S", 10, "a command that goes on")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_a_working_folder_that_is_gone_is_none_of_our_business(
    environ: dict[str, str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && {TRAINBUS} run -- bash -c 'echo $TRAINBUS_PROJECT'"
    done = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, check=True)
    assert done.stdout == b"default\n"


def test_signals_that_were_ignored_stay_ignored(environ: dict[str, str]) -> None:
    program = (
        "import signal; print([signal.getsignal(n).name for n in "
        "(signal.SIGHUP, signal.SIGTERM)], signal.pthread_sigmask(0, []), "
        # The C library keeps 32 and 33 for itself, and has them ignored after posix_spawn.
        "hex(int(open('/proc/self/status').read().split('SigIgn:')[1].split()[0], 16)"
        " & (1 << 31) - 1))"
    )
    bare = f"trap '' HUP; {sys.executable} -c \"{program}\""
    ours = f"trap '' HUP; {TRAINBUS} run -- {sys.executable} -c \"{program}\""
    outputs = [
        subprocess.run(["bash", "-c", script], env=environ, check=True, capture_output=True).stdout
        for script in (bare, ours)
    ]
    assert outputs[0] == outputs[1] != b""


def test_a_command_that_starts_no_run_publishes_nothing(
    environ: dict[str, str], spool: Spool
) -> None:
    assert call(environ, "--", "true").stderr == b""
    told = call(environ, "--verbose", "--", "true")
    assert told.stderr == b"trainbus: the command has started no run: nothing was published\n"
    assert not spool.folder.exists()


@pytest.mark.parametrize("spool_is", ["file", "missing rights"])
def test_a_spool_that_cannot_be_used_holds_up_nothing(
    environ: dict[str, str], tmp_path: Path, spool_is: str
) -> None:
    (tmp_path / "spool").write_text("no folder")
    if spool_is == "missing rights":
        environ["TRAINBUS_SPOOL"] = "/proc/spool"
    program = "import sys; [sys.stdout.write(f'{n:099d}\\n') for n in range(300_000)]; sys.exit(3)"
    done = call(environ, "--console", "--system", "--", sys.executable, "-c", program)
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout == b"".join(b"%099d\n" % number for number in range(300_000))


def test_a_flood_of_lines_is_left_out_and_counted(environ: dict[str, str], spool: Spool) -> None:
    program = "import sys; [sys.stdout.write(f'{n:099d}\\n') for n in range(300_000)]"
    done = call(environ, "--console", "--", sys.executable, "-c", program)
    assert len(done.stdout) == 30_000_000
    ours, theirs = sorted(spool.sources(), key=lambda one: len(spool.records("console", one)))
    assert [end["data"]["status"] for end in spool.records("run_finished", ours)] == ["completed"]
    lines = [line for one in spool.records("console", theirs) for line in one["data"]["lines"]]
    (end,) = spool.records("run_finished", theirs)
    kept = [line for line in lines if not line.startswith("[trainbus: ")]
    assert kept[0] == f"{0:099d}"
    assert len(kept) + end["data"]["dropped"]["console"] == 300_000
    assert end["data"]["rank"] > 1000


def test_a_wrapper_in_a_wrapper_changes_nothing(environ: dict[str, str]) -> None:
    program = "import os, sys; print(os.environ['PYTHONPATH'].count('auto')); sys.exit(8)"
    done = call(environ, "--", TRAINBUS, "run", "--", sys.executable, "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (8, b"1\n", b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("mode", ["", "--console"])
def test_closed_streams_stay_closed(environ: dict[str, str], closed: str, mode: str) -> None:
    program = "for fd in 0 1 2; do [ -e /proc/self/fd/$fd ]; s=$s$?; done; exit $((s + 0))"
    bare = subprocess.run(["bash", "-c", f"bash -c '{program}' {closed}"], check=False, env=environ)
    script = f"{TRAINBUS} run {mode} -- bash -c '{program}' {closed}"
    ours = subprocess.run(["bash", "-c", script], check=False, env=environ, capture_output=True)
    assert ours.returncode == bare.returncode != 0


def test_whatever_goes_wrong_afterwards_the_exit_status_is_the_commands(
    environ: dict[str, str],
) -> None:
    program = (
        "import sys; from bus.cli.main import main; from publishers.wrapper import run;"
        "run.__dict__['words_for'] = None; run.__dict__['installed_hooks'] = None;"
        "main(['run', *sys.argv[1:]])"
    )
    for options, stderr in (([], b""), (["-v"], b"trainbus: no hooks: TypeError")):
        command = [sys.executable, "-c", program, *options, "--", "bash", "-c", "exit 9"]
        done = subprocess.run(command, env=environ, capture_output=True, check=False)
        assert done.returncode == 9
        assert done.stderr.startswith(stderr)
        assert bool(done.stderr) == bool(options)


def test_ranks_that_a_launcher_starts_share_the_run(environ: dict[str, str], spool: Spool) -> None:
    train = "import publishers; publishers.start_run().log({'a': 1})"
    ranks = "WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 TORCHELASTIC_RUN_ID=none"
    script = "".join(
        f'RANK={rank} LOCAL_RANK={rank} {ranks} {sys.executable} -c "{train}" & ' for rank in (0, 1)
    )
    assert call(environ, "-p", "digits", "--", "bash", "-c", script + "wait").returncode == 0
    headers = [spool.payloads(source)[0] for source in spool.sources()]
    assert len(headers) == 2
    assert len({header["run"] for header in headers}) == 1
    assert {header["project"] for header in headers} == {"digits"}
    assert len({header["wrapper"] for header in headers}) == 1


def test_each_training_of_a_script_is_a_run_of_its_own(
    environ: dict[str, str], spool: Spool
) -> None:
    train = "import publishers\nfor n in 1, 2: publishers.start_run().finish(timeout=0)"
    script = "".join(f'{sys.executable} -c "{train}"; ' for _ in range(2))
    assert call(environ, "-p", "digits", "--", "bash", "-c", script).returncode == 0
    runs = sorted(spool.payloads(source)[0]["run"] for source in spool.sources())
    assert runs == [runs[0], f"{runs[0]}~2", f"{runs[0]}~3", f"{runs[0]}~4"]
    assert list((spool.folder / "claims").iterdir()) == []


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
