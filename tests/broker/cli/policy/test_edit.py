"""``brokerctl policy edit``: checked, shown, installed, taken back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.kit.brokerctl import called

ROOT = Path(__file__).parents[4]
GOOD = "a * work vault deny\na * @anyvm @anyvm ask\n"
BAD = "a * work vault dny\n"


@pytest.fixture(name="home")
def _home():
    # Short: a runtime directory must leave room for sockets' names.
    with tempfile.TemporaryDirectory(prefix="v-", dir="/tmp") as base:
        yield _made(Path(base) / "h")


def _made(home):
    for folder in (".config/vitrail/policy.d", ".config/vitrail/sandboxes.d", "run"):
        (home / folder).mkdir(parents=True)
    for folder in (home, *home.rglob("*")):
        folder.chmod(0o755)
    (home / "run").chmod(0o700)
    return home


class Editing:
    """One run; the editor puts ``text`` into the file."""

    def __init__(self, home, text, *words):
        self.home = home
        (home / "new").write_text(text)
        editor = home / "editor"
        editor.write_text(f'#!/bin/sh\ncp {home}/new "$1"\n')
        editor.chmod(0o755)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_CONFIG_DIRS": str(home / "none"),
            "EDITOR": str(editor),
        }
        self.words = ("policy", "edit", *words)
        self.process = None

    def start(self, *, trial=True):
        """Run it as a separate process, and wait for its trial file."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "broker.cli.app", *self.words],
            cwd=ROOT, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if trial:
            self.until(there=True)

    def run(self):
        """Run it where it asks nothing; returns (code, output)."""
        answer = called(*self.words, env=self.env)
        return answer.code, answer.err + answer.out

    def say(self, text=""):
        """Type, end the input, and return (code, output)."""
        if self.process is None:
            self.start(trial=False)
        out, _ = self.process.communicate(text, timeout=60)
        return self.process.returncode, out

    @property
    def file(self):
        return self.home / ".config/vitrail/policy.d/30-user.policy"

    @property
    def trial(self):
        return self.home / "run/vitrail/policy.d/30-user.policy"

    def until(self, there):
        """Wait until the trial file is there, or is not."""
        end = time.monotonic() + 60
        while self.trial.exists() != there:
            assert time.monotonic() < end
            assert not there or self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.02)


def test_installed(home):
    """After a look at what changes."""
    one = Editing(home, GOOD)
    code, out = one.say("i\n")
    assert code == 0, out
    assert one.file.read_text() == GOOD
    assert "+a * work vault deny" in out
    assert "no decisions change" in out
    assert not one.trial.exists()
    code, out = Editing(home, GOOD, "--json").say()
    assert code == 0, "unchanged"
    assert json.loads(out.splitlines()[-1]) == {
        "file": str(one.file),
        "installed": False,
    }


def test_an_error_is_never_installed(home):
    """Neither with --yes nor when the input ends; it is shown with its place."""
    for words in ((), ("--yes",)):
        one = Editing(home, BAD, *words)
        code, out = one.say()
        assert code == 3
        assert "30-user.policy:1:16" in out
        assert "did you mean 'deny'?" in out
        assert not one.file.exists()


def test_an_error_elsewhere_does_not_hinder(home):
    """A file that was broken before may stay so: mending another one must be possible."""
    other = home / ".config/vitrail/policy.d/10-old.policy"
    other.write_text(BAD)
    assert Editing(home, GOOD, "--yes").run()[0] == 0
    # But an error that this edit makes in another file does.
    other.write_text("!include 30-user.policy\n")
    assert Editing(home, "!include 10-old.policy\n", "--yes").run()[0] == 3


@pytest.mark.parametrize("said", ["q\n", "", "x\nq\n"])
def test_not_installed_without_a_yes(home, said):
    """Quit, the end of the input, another word."""
    one = Editing(home, GOOD)
    assert one.say(said)[0] == 1
    assert not one.file.exists()


def test_a_record(home):
    """The same, by its name; what changes is told by key."""
    one = Editing(home, 'class = "persistent"\naudio = "raw"\n', "work.toml", "--yes")
    code, out = one.run()
    assert code == 0, out
    assert "record work: none → can be used" in out
    one = Editing(home, 'class = "persistent"\n', "work.toml", "--yes")
    code, out = one.run()
    assert "record work: audio.playback: raw → none" in out


def test_a_name_that_is_none(home):
    """Nothing outside the two directories is edited."""
    for name in ("../x.policy", "X.policy", "X", "work.tml", "a/b.policy"):
        code, out = Editing(home, GOOD, name).run()
        assert code == 1
        assert "is not a valid name of a record or of a file of rules" in out


def test_kept_in_time(home):
    """On trial, then permanent."""
    one = Editing(home, GOOD, "--yes", "--confirm", "60s")
    one.start()
    assert one.trial.read_text() == GOOD
    assert not one.file.exists()
    code, out = one.say("keep\n")
    assert code == 0, out
    assert one.file.read_text() == GOOD
    assert not one.trial.exists()


def test_what_was_installed_during_a_trial_is_not_written_over(home):
    """A change that came meanwhile may have taken a permission away."""
    one = Editing(home, GOOD, "--confirm", "60s", "--yes")
    one.start()
    one.file.write_text("a * * * deny\n")
    code, out = one.say("keep\n")
    assert code == 1, out
    assert "another program changed" in out
    assert one.file.read_text() == "a * * * deny\n"
    assert not one.trial.exists()


@pytest.mark.parametrize("said", ["no\n", ""])
def test_not_kept(home, said):
    """Another word, or a terminal that has gone, takes it back at once."""
    one = Editing(home, GOOD, "--yes", "--confirm", "60s")
    one.start()
    code, out = one.say(said)
    assert code == 1
    assert "the edit was not confirmed and was reverted" in out
    assert not one.trial.exists()
    assert not one.file.exists()


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("said", ["no\n", "keep\n"])
def test_the_trial_file_was_changed(home, said, link):
    """Somebody has edited the trial file: it stays in force, and the message says so."""
    one = Editing(home, GOOD, "--yes", "--confirm", "60s")
    one.start()
    if link:
        one.trial.unlink()
        (home / "other").write_text("a * work vault deny\n")
        one.trial.symlink_to(home / "other")
    else:
        one.trial.write_text("a * work vault deny\n")
    code, out = one.say(said)
    assert f"{one.trial} was changed in the meantime and remains in force" in out
    assert f"remove {one.trial}" in out
    assert "was reverted" not in out
    assert "already been reverted" not in out
    assert code == (0 if one.file.exists() else 1)
    assert one.file.exists() is (said == "keep\n")
    assert one.trial.read_text() == "a * work vault deny\n"


def test_the_time_is_over(home):
    """Without a word it is taken back by itself."""
    one = Editing(home, GOOD, "--yes", "--confirm", "1s")
    one.start()
    one.until(there=False)
    assert one.process.wait(30) == 1
    assert not one.file.exists()
    one.process.stdin.close()
    one.process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_brokerctl_is_killed(home, number):
    """An edit whose editor was killed does not stay."""
    one = Editing(home, GOOD, "--yes", "--confirm", "2s")
    one.start()
    one.process.send_signal(number)
    one.process.wait(30)
    one.until(there=False)
    assert not one.file.exists()
    one.process.stdin.close()
    one.process.stdout.close()


def test_only_one_edits(home):
    """And not over another's trial."""
    one = Editing(home, GOOD, "--yes", "--confirm", "60s")
    one.start()
    code, out = Editing(home, GOOD, "--yes").run()
    assert code == 1
    assert "cannot edit the settings in" in out
    one.say("keep\n")


def test_no_trial_for_another_directory(home, tmp_path):
    """What another person's broker reads cannot be taken back from here."""
    one = Editing(home, GOOD, "--to", str(tmp_path / "etc"), "--confirm", "9s")
    code, out = one.run()
    assert code == 1
    assert "your broker reads, not " in out
    code, out = Editing(home, GOOD, "--to", str(tmp_path / "etc"), "--yes").run()
    assert code == 0, out
    assert (tmp_path / "etc/policy.d/30-user.policy").read_text() == GOOD


@pytest.mark.parametrize("time_", ["60", "0s", "2h", "soon"])
def test_a_time_that_is_none(home, time_):
    """A wrong call."""
    assert Editing(home, GOOD, "--confirm", time_).run()[0] == 2


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("work", "sandboxes.d/work.toml", 'class = "disposable"\n'),
        ("30-mine", "policy.d/30-mine.policy", GOOD),
        ("mine", "policy.d/mine.policy", GOOD),
    ],
)
def test_a_name_without_its_ending(home, name, file, text):
    """A file that there is, else rules by a digit, else a record."""
    config = home / ".config/vitrail"
    if name == "mine":
        (config / file).write_text("a * work vault deny\n")
        (config / file).chmod(0o644)
    code, out = Editing(home, text, name, "--yes").run()
    assert code == 0, out
    assert (config / file).read_text() == text


def test_a_name_of_two_files_is_not_guessed(home):
    config = home / ".config/vitrail"
    (config / "policy.d/two.policy").write_text(GOOD)
    (config / "sandboxes.d/two.toml").write_text('class = "disposable"\n')
    code, out = Editing(home, GOOD, "two", "--yes").run()
    assert code == 1
    assert "names both a record and a file of rules" in out
