"""``brokerctl sandbox``: homes and their records, from the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.cli.homes.home_copies import HomeCopies
from broker.cli.sandboxes.state import command
from broker.core.errors import RefusedError, SetupError
from broker.core.names import SandboxName
from broker.core.streams.sound_rules import Level
from broker.host.homes.store import DISK, TREE
from broker.viewer.sound.levels import load_level, save_level

MAIL, POST = SandboxName("mail"), SandboxName("post")
RECORD = 'class = "persistent"\ndisplay = "allow"\n\n[label]\nname = "mail"\n'


class Stage:
    """One user's files."""

    def __init__(self, root: Path) -> None:
        self.store = HomeCopies(root / "state/vitrail/homes")
        self.records = root / "config/vitrail/sandboxes.d"
        self.records.mkdir(parents=True)
        (self.records / "mail.toml").write_text(RECORD)
        with self.store.new(DISK) as prepared:
            (prepared / DISK).write_bytes(b"letters")
            self.store.publish(prepared, MAIL)

    def run(self, *words: str, ask: str | None = None) -> Result:
        result = CliRunner().invoke(command, words, input=ask, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    def home(self, name: SandboxName) -> bytes:
        return self.store.require(name).disk.read_bytes()


@pytest.fixture
def s(tmp_path, monkeypatch) -> Stage:
    for name in ("config", "state", "data", "cache"):
        variable = f"XDG_{name.upper()}_HOME"
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    return Stage(tmp_path)


def test_list_shows_kept_state(s: Stage):
    s.run("snapshot", "mail", "first")
    (row,) = json.loads(s.run("list", "--json").stdout)["sandboxes"]
    assert (row["name"], row["snapshots"]) == ("mail", ["first"])
    assert row["record"] is True
    assert row["in_use"] is False
    with s.store.lock(MAIL):
        assert "in use" in s.run("list").stdout


def test_the_home_of_a_container_has_no_size(s: Stage):
    """It is a directory, which holds as much as the disk."""
    with s.store.new(TREE) as prepared:
        (prepared / TREE).mkdir()
        s.store.publish(prepared, POST)
    rows = [line.split() for line in s.run("list").stdout.splitlines()]
    assert {row[0]: row[1] for row in rows[1:]} == {"mail": "7", "post": "-"}


def test_clone_copies_home_and_record(s: Stage):
    s.run("clone", "mail", "post")
    assert s.home(POST) == s.home(MAIL) == b"letters"
    assert (s.records / "post.toml").read_text() == RECORD.replace("mail", "post")
    with pytest.raises(RefusedError, match="already"):
        s.run("clone", "mail", "post")
    with pytest.raises(SetupError, match="no record"):
        s.run("clone", "nothing", "other")


def test_rename_takes_record_and_snapshots_along(s: Stage):
    s.run("snapshot", "mail", "first")
    s.run("rename", "mail", "post")
    assert s.home(POST) == b"letters"
    assert s.store.find(MAIL) is None
    assert [p.name for p in s.records.iterdir()] == ["post.toml"]
    s.run("restore", "post", "first", "--yes")


RULES = """\
# mail is not changed here
vitrail.Print        +  mail @adminvm ask
vitrail.OpenURL  *  mail     @default ask target=@dispvm:web
vitrail.OpenFile *  web      @default ask target=mail
vitrail.Print    *  mailbox  @adminvm allow
"""
RENAMED = """\
# mail is not changed here
vitrail.Print        +  post @adminvm ask
vitrail.OpenURL  *  post     @default ask target=@dispvm:web
vitrail.OpenFile *  web      @default ask target=post
vitrail.Print    *  mailbox  @adminvm allow
"""


def test_rename_takes_rules_along(s: Stage, tmp_path):
    """A later sandbox of the old name would have them."""
    folder = tmp_path / "config/vitrail/policy.d"
    folder.mkdir()
    (folder / "40-mail.policy").write_text(RULES)
    (folder / "30-user.policy").write_text("x.Copy * web @dispvm:mail allow\n")
    (folder / "35-other.policy").write_text("x.Copy * web work allow\n")
    (tmp_path / "state/vitrail/logs/mail").mkdir(parents=True)
    save_level(tmp_path / "state/vitrail/audio", "mail", Level(muted=True))
    result = s.run("rename", "mail", "post")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "40-post.policy": RENAMED,
        "30-user.policy": "x.Copy * web @dispvm:post allow\n",
        "35-other.policy": "x.Copy * web work allow\n",
    }
    assert result.stderr.splitlines()[0] == "renamed 'mail' to 'post'"
    assert f"wrote {folder}/40-post.policy" in result.stderr
    assert (tmp_path / "state/vitrail/logs/post").is_dir()
    assert load_level(tmp_path / "state/vitrail/audio", "post").muted
    assert not load_level(tmp_path / "state/vitrail/audio", "mail").muted


@pytest.mark.parametrize("file", ["40-post.policy", "30-user.policy"])
def test_rename_refused_for_name_with_rules(s: Stage, tmp_path, file):
    """Otherwise the home's programs have what rules allowed to an earlier sandbox."""
    folder = tmp_path / "config/vitrail/policy.d"
    folder.mkdir()
    (folder / file).write_text("x.Copy * post @adminvm allow\n")
    with pytest.raises(RefusedError, match="there are rules for 'post' already"):
        s.run("rename", "mail", "post")
    assert s.home(MAIL) == b"letters"


def test_rename_of_disposable_moves_its_record(s: Stage):
    (s.records / "web.toml").write_text('class = "disposable"\n')
    s.run("rename", "web", "surf")
    assert sorted(p.name for p in s.records.iterdir()) == ["mail.toml", "surf.toml"]


def test_rename_takes_the_start_at_login_along(s: Stage, tmp_path):
    place = s.records / "mail.toml"
    place.write_text(f'autostart = "login"\n{RECORD}')
    s.run("rename", "mail", "post")
    (file,) = (tmp_path / "config/autostart").iterdir()
    assert file.name == "vitrail-sandbox.post.desktop"


def test_rename_refuses_a_record_that_others_inherit_from(s: Stage):
    (s.records / "work.toml").write_text('inherits = "mail"\nclass = "persistent"\n')
    with pytest.raises(RefusedError, match="other records inherit from it"):
        s.run("rename", "mail", "post")
    assert s.home(MAIL) == b"letters"


@pytest.mark.parametrize(
    "words",
    [
        ("clone", "mail", "post"),
        ("rename", "mail", "post"),
        ("remove", "mail", "--yes"),
        ("reset", "mail", "--yes"),
        ("snapshot", "mail"),
        ("restore", "mail", "first", "--yes"),
        ("backup", "mail", "file", "-r", "me"),
    ],
)
def test_a_sandbox_that_runs_is_refused(s: Stage, words):
    with s.store.lock(MAIL), pytest.raises(RefusedError, match="in use"):
        s.run(*words)
    assert s.home(MAIL) == b"letters"


def test_remove_names_the_removed_files(s: Stage):
    s.run("snapshot", "mail", "first")
    with pytest.raises(RefusedError, match=r"1 snapshot, and .*mail\.toml"):
        s.run("remove", "mail")  # no terminal to ask at
    assert s.home(MAIL) == b"letters"
    s.run("remove", "mail", "--yes")
    assert s.store.all() == []
    assert list(s.records.iterdir()) == []


def test_reset_empties_the_home_and_keeps_snapshots(s: Stage):
    os.truncate(s.store.require(MAIL).disk, 64 << 20)
    s.run("snapshot", "mail", "first")
    s.run("reset", "mail", "--yes")
    assert s.home(MAIL)[:7] != b"letters"
    assert s.home(MAIL)[1080:1082] == b"\x53\xef", "an ext4's magic number"
    s.run("restore", "mail", "first", "--yes")
    assert s.home(MAIL)[:7] == b"letters"


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (("remove", "mail"), "the home of 'mail' (4.0 KiB), 1 snapshot, and"),
        (("reset", "mail"), "the content of the home of 'mail' (4.0 KiB)"),
        (("restore", "mail", "first"), "since snapshot 'first'"),
    ],
)
def test_check_names_the_loss_and_changes_nothing(s: Stage, words, lost):
    s.run("snapshot", "mail", "first")
    s.store.require(MAIL).disk.write_bytes(b"replies")
    said = s.run(*words, "--check", "--json").stdout
    assert lost in json.loads(said)["lost"]
    assert s.home(MAIL) == b"replies"
    assert (s.records / "mail.toml").exists()
    assert [one.name for one in s.store.snapshots(MAIL)] == ["first"]


def test_check_refuses_a_snapshot_that_is_absent(s: Stage):
    with pytest.raises(SetupError, match="no snapshot"):
        s.run("restore", "mail", "first", "--check")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("snapshot", "mail", "second"), {"name": "mail", "snapshot": "second"}),
        (("snapshot", "mail", "first", "--remove"), {"snapshot": "first"}),
        (("restore", "mail", "first", "--yes"), {"name": "mail", "snapshot": "first"}),
        (("remove", "mail", "--yes", "--keep-record"), {"name": "mail", "removed": []}),
    ],
)
def test_json_is_one_object_and_nothing_else(s: Stage, words, answer):
    s.run("snapshot", "mail", "first")
    printed = json.loads(s.run(*words, "--json").stdout)
    assert {key: printed[key] for key in answer} == answer


def test_without_a_terminal_no_bar_leaves_a_line(s: Stage):
    assert s.run("snapshot", "mail", "first").stderr.count("\n") == 1
