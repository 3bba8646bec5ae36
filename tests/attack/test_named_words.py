"""Options of a command that has the name of a file: 'sh -c' beside a file '-c'.

A sandbox that may write to a directory of the user's plants it there.  The user, who
stands in that directory, starts a program in another sandbox.
"""

from __future__ import annotations

import sys

import pytest

from broker.cli.launchers.bwrap import with_named_files
from broker.cli.quick.made_record import with_files
from broker.helpers.process.spawn import run_tool
from tests.kit.brokerctl import OUR_PYTHON
from tests.kit.needs import PID_NAMESPACES
from tests.kit.world import world

RECORD = """\
class = "{kind}"
display = "allow"
[label]
name = "bank"
colour = "green"
[launch]
kind = "bwrap"
command = ["true"]
"""
PLANTED = ("-c", "--", "--private-window", "-")


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder of the user's in which a sandbox has made files, and where the user is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in PLANTED:
        (folder / name).write_text("echo the planted script runs\n")
    monkeypatch.chdir(folder)
    return folder


def test_no_option_is_a_file(shared):
    command = ("sh", *PLANTED)
    assert with_files(command, shared) == (command, ())
    assert with_named_files(command, None, ()) == (command, ())
    assert with_named_files(command, shared.parent, ()) == (command, ())


def test_a_file_of_such_a_name_is_meant_with_its_directory(shared):
    words, files = with_files(("sh", "./-c"), shared)
    assert words == ("sh", str(shared / "-c"))
    assert files == (shared / "-c",)


def test_a_whole_path_is_of_the_users_file_beside_a_kept_home(shared):
    """It is in no home of a sandbox; before, it was never readable inside."""
    film = shared.parent / "film.webm"
    film.write_text("x")
    home = shared.parent / "home"
    home.mkdir()
    words, files = with_named_files(("mpv", str(film)), home, ())
    assert words == ("mpv", str(film))
    assert files == (film,)


def test_a_program_s_name_is_no_file_of_a_folder_that_a_sandbox_may_write_to(
    shared, capsys
):
    """'env make' there runs the program make, and not what was made beside it."""
    (shared / "make").write_text("#!/bin/sh\n")
    assert with_named_files(("env", "make"), None, [shared]) == (("env", "make"), ())
    assert "write './make'" in capsys.readouterr().err
    words, files = with_named_files(("env", "./make"), None, [shared])
    assert (words, files) == (("env", str(shared / "make")), (shared / "make",))
    # In a folder of the user's alone it is as typed.
    words, _ = with_named_files(("env", "make"), None, [shared.parent / "other"])
    assert words == ("env", str(shared / "make"))


@PID_NAMESPACES
@pytest.mark.parametrize("kind", ["disposable", "persistent", "none"])
async def test_a_planted_file_does_not_become_the_script_of_another_box(shared, kind):
    words = ["--bwrap"] if kind == "none" else ["bank"]
    async with world(image=False) as w:
        w.write_record("bank", RECORD.format(kind=kind.replace("none", "disposable")))
        argv = [sys.executable, "-m", "broker.cli.app", "run", "-q", *words]
        env = {**w.environ, **OUR_PYTHON}
        said = await run_tool(
            [*argv, "--", "sh", "-c", "echo honest"], env=env, cwd=shared, deadline=90
        )
        assert said == b"honest\n"
