"""The environment of a command under ``trainbus run``."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint

import pytest

from bus.errors import ConfigError
from publishers.auto.environ import (
    SITE,
    command_environment,
    installed_hooks,
    project_of,
)
from publishers.wrapper.run import Options, make_plan


def told(environ: dict[str, str], options: Options | None = None) -> dict[str, str]:
    home = {"TRAINBUS_HOME": "/nowhere"}
    return make_plan({**home, **environ}, options or Options(), "/home/me/digits").environ


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, [str(SITE)]),
        ("", [str(SITE)]),
        ("/a:/b", [str(SITE), "/a", "/b"]),
        ("/a::/b", [str(SITE), "/a", "", "/b"]),
        (f"/a:{SITE}", [str(SITE), "/a"]),
    ],
)
def test_the_python_path_keeps_what_it_had(before: str | None, after: list[str]) -> None:
    environ = {} if before is None else {"PYTHONPATH": before}
    made = command_environment(environ, wrapper="w", hooks="")
    assert made["PYTHONPATH"].split(os.pathsep) == after


def test_hooks_are_the_entry_points_and_those_of_a_wrapper_around() -> None:
    found = [
        EntryPoint("ultralytics.utils", "a.b:hook", "trainbus.hooks"),
        EntryPoint("lightning", "c:hook [extra]", "trainbus.hooks"),
        EntryPoint("lightning", "d:hook", "trainbus.hooks"),
    ]
    hooks = installed_hooks(found)
    assert hooks == "lightning=c:hook,lightning=d:hook,ultralytics.utils=a.b:hook"
    made = command_environment(
        {"TRAINBUS_HOOKS": "x=y:z,lightning=d:hook"}, wrapper="w", hooks=hooks
    )
    assert made["TRAINBUS_HOOKS"] == (
        "x=y:z,lightning=d:hook,lightning=c:hook,ultralytics.utils=a.b:hook"
    )


def test_a_run_that_nothing_names_is_named_by_the_wrapper_and_the_folder() -> None:
    made = told({})
    assert made["TRAINBUS_PROJECT"] == "digits"
    assert made["TRAINBUS_WRAPPER_RUN_ID"]
    assert made["TRAINBUS_WRAPPER"]
    assert "TRAINBUS_RUN_ID" not in made
    assert "TRAINBUS_RUN_NAME" not in made


def test_what_is_said_counts() -> None:
    made = told(
        {"TRAINBUS_RUN_ID": "mine", "TRAINBUS_PROJECT": "p"}, Options(project="q", name="n")
    )
    assert (made["TRAINBUS_RUN_ID"], made["TRAINBUS_PROJECT"]) == ("mine", "q")
    assert made["TRAINBUS_RUN_NAME"] == "n"
    assert told({"TRAINBUS_RUN_ID": "mine"}, Options(run_id="r"))["TRAINBUS_RUN_ID"] == "r"
    assert told({"TRAINBUS_PROJECT": "p"})["TRAINBUS_PROJECT"] == "p"


def test_under_a_launcher_the_run_is_the_launchers() -> None:
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "2"}
    made = told({**torchrun, "TORCHELASTIC_RUN_ID": "exp7"})
    assert made["TRAINBUS_RUN_ID"] == "torchrun-exp7"
    # Nothing in common: that is for the training to say.
    made = told(torchrun)
    assert "TRAINBUS_RUN_ID" not in made
    assert "TRAINBUS_WRAPPER_RUN_ID" not in made


def test_a_malformed_setting_is_said_before_the_command_starts() -> None:
    with pytest.raises(ConfigError, match="broker"):
        told({"TRAINBUS_BROKER": "http://x"})


def test_the_root_folder_has_no_name_to_take() -> None:
    assert project_of("/") == "default"
    assert project_of("/a/b c") == "b c"
