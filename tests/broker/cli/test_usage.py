"""A wrong command line: which verb was meant, and how a verb is written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import pytest

from broker.cli.policy import install
from broker.cli.transfer.named_path import NamedPath
from broker.cli.usage import MEANT
from broker.cli.verbs import VERBS, app, report
from broker.core.errors import InternalError, RefusedError, SetupError
from policy.rules.engine import NO_RULE


def answer(capsys, *words):
    """Run a command line that is wrong; return what a person reads."""
    with pytest.raises(click.ClickException) as caught:
        app.main(list(words), prog_name="brokerctl", standalone_mode=False)
    assert report(caught.value) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("stauts", "brokerctl status"),
        ("remove demo", "brokerctl sandbox remove"),
        ("rm demo", "brokerctl sandbox remove"),
        ("ps", "brokerctl status"),
        ("policy chek", "brokerctl policy check"),
        ("audit conections", "brokerctl audit connections"),
        ("image ls", "brokerctl image list"),
        ("image update", "brokerctl image rebuild"),
        ("image prune", "brokerctl prune --images"),
        ("policy list", "brokerctl policy show"),
        ("update", "brokerctl image rebuild"),
    ],
)
def test_the_verb_that_was_meant_is_named(capsys, words, meant):
    group = " ".join(["brokerctl", *words.split()[:-1]]) if " chek" in words else ""
    said = answer(capsys, *words.split())
    assert f"hint: did you mean '{meant}'?" in said
    assert said.startswith("error: No such command '")
    assert group in said
    assert "Usage" not in said


def test_an_unknown_verb_that_is_near_none_names_the_list(capsys):
    said = answer(capsys, "frobnicate")
    assert said == (
        "error: No such command 'frobnicate'\n  hint: to list the commands, run 'brokerctl help all'\n"
    )


@pytest.mark.parametrize("verb", MEANT)
def test_every_verb_of_other_tools_leads_to_one_of_ours(verb):
    assert verb not in VERBS
    first, *rest = MEANT[verb].split()
    context = click.Context(app)
    command = app.get_command(context, first)
    assert command is not None
    for word in rest:
        if word.startswith("--"):
            assert any(word in parameter.opts for parameter in command.params)
        else:
            assert isinstance(command, click.Group)
            command = command.get_command(context, word)
            assert command is not None


def test_a_wrong_option_shows_the_usage_in_one_line_without_padding(capsys):
    said = answer(capsys, "run", "--detahc", "demo")
    error, usage, hint = said.splitlines()
    assert error.startswith("error: No such option")
    assert "--detach" in error
    assert usage == "  usage: brokerctl run [OPTIONS] SANDBOX [-- COMMAND…]"
    assert hint == "  hint: for details, run 'brokerctl run --help'"


def test_a_message_of_several_lines_becomes_one(capsys):
    first = answer(capsys, "completion").splitlines()[0]
    assert "bash" in first
    assert "\\x" not in first


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cp", "x", "demo:/tmp"], "TARGET must be 'demo:' without a path"),
        (["cp", "demo:x", "/nowhere"], "or a directory on this machine, such as '.'"),
        (["cp", "demo:~/", "/tmp"], "PATH of SANDBOX:PATH must name a file"),
    ],
)
def test_cp_says_where_files_arrive(capsys, words, says):
    assert says in answer(capsys, *words)


def test_a_refusal_without_a_rule_says_so_once(capsys):
    error = RefusedError(
        "denied: no rule matches, so the answer is deny", where=NO_RULE
    )
    assert report(error) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: denied: no rule matches, so the answer is deny\n")


@pytest.mark.parametrize("words", [["list", "--json"], ["policy", "schema"]])
def test_output_that_cannot_be_written_is_an_error_in_one_line(tmp_path, words):
    """A full disk showed a traceback, and a second one at the end of Python."""
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.defpath}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "broker.cli.app", *words],
            env=env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: cannot write the output: No space left on device",
        "  hint: check where the output goes: a full disk, a closed file",
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [(), ("policy",), ("image",)])
def test_no_verb_shows_the_verbs_line_by_line(capsys, words):
    """click 8.2 and later report it as a mistake, whose text went into one line."""
    said = answer(capsys, *words)
    assert len(said.splitlines()) > 10
    assert "error:" not in said


@pytest.mark.parametrize(
    "words",
    [
        ("cp", "{closed}/x", "work:"),
        ("cp", "work:note.txt", "{closed}/x"),
        ("new", "foo", "--no-menu"),
    ],
)
def test_a_path_that_the_user_may_not_use_is_an_error_with_its_name(tmp_path, words):
    """It ended in a traceback."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    env = {
        **os.environ,
        **{f"XDG_{name}_HOME": str(closed) for name in ("CONFIG", "DATA", "CACHE")},
    }
    line = [
        sys.executable,
        "-m",
        "broker.cli.app",
        *(w.format(closed=closed) for w in words),
    ]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"error: {closed}/" in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_a_path_has_its_traceback_for_developers(monkeypatch):
    monkeypatch.setenv("VITRAIL_DEBUG", "1")
    error = PermissionError(13, "Permission denied", "/x")
    with pytest.raises(SetupError) as caught:
        report(error)
    assert caught.value.__cause__ is error


def test_an_error_without_a_path_is_an_internal_one(monkeypatch, capsys):
    error = FileNotFoundError(2, "No such file or directory")
    assert report(error) == 1
    assert capsys.readouterr().err == (
        "error: brokerctl failed: FileNotFoundError: No such file or directory\n"
        "  hint: this is a defect of Vitrail: to report it, add the output of the same "
        "command with VITRAIL_DEBUG=1\n"
    )
    monkeypatch.setenv("VITRAIL_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        report(error)


def test_an_error_that_a_path_has_caused_names_it(capsys):
    full = SetupError("cannot save it")
    full.__cause__ = OSError(28, "No space left on device", "/x")
    assert report(full) == 1
    assert "free some space on that disk" in capsys.readouterr().err
    for message in ("cannot save it: no", "cannot save /x: no"):
        error = SetupError(message)
        error.__cause__ = PermissionError(13, "no", "/x")
        assert report(error) == 1
        err = capsys.readouterr().err
        assert "check that the path exists and who may read and write it" in err
        assert err.count("/x") == 1


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space on that disk"),
        (errno.EROFS, "mounted read-only"),
        (errno.EACCES, "who may read and write it"),
    ],
)
@pytest.mark.parametrize(
    "act",
    [
        partial(install.put, content=b""),
        partial(install.open_lock, doing="change records"),
    ],
)
def test_hint_of_a_record_that_is_not_written_follows_the_reason(
    monkeypatch, capsys, tmp_path, act, number, hint
):
    """Permissions of a full disk's directory are in order: its reader looks for nothing."""

    def fail(path, *_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(install, "replace_file", fail)
    monkeypatch.setattr(install.os, "open", fail)
    path = tmp_path / "sandboxes.d/work.toml"
    with pytest.raises(RefusedError) as caught:
        act(path)
    assert report(caught.value) == 1
    err = capsys.readouterr().err
    assert os.strerror(number) in err
    assert hint in err


def test_a_closed_output_is_named_and_no_other_file_takes_its_number(tmp_path):
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.defpath}
    line = f'exec "{sys.executable}" -m broker.cli.app labels --json >&-'
    done = subprocess.run(
        ["sh", "-c", line], env=env, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: cannot write the output: Bad file descriptor\n  hint: "
    )


def test_a_device_without_an_end_is_not_read():
    kind = NamedPath(exists=True, dir_okay=False)
    with pytest.raises(click.BadParameter, match="/dev/zero is a device, not a file"):
        kind.convert("/dev/zero", None, None)
    assert kind.convert("/dev/null", None, None) == "/dev/null"


def test_a_mistake_of_the_program_is_one_sentence(capsys):
    assert report(KeyError("network")) == 1
    assert capsys.readouterr().err.startswith(
        "error: brokerctl failed: KeyError: 'network'\n  hint: "
    )
    assert report(InternalError("internal error in the broker: x", hint="see y")) == 1
    assert capsys.readouterr().err == (
        "error: internal error in the broker: x\n  hint: see y\n"
    )


def test_a_removed_current_directory_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert report(FileNotFoundError(2, "No such file or directory")) == 1
    assert "the current directory does not exist any more" in capsys.readouterr().err
