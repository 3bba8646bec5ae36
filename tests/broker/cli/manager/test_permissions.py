"""What the manager's page says of a permission, from real files of records and rules."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker.cli.manager import following
from broker.cli.manager.details import details_of, possible_actions
from broker.cli.manager.following import RecordRows, SandboxRow, merged, record_rows
from broker.cli.manager.permissions import LastUse, PermissionRow
from broker.cli.run.connect import offline_paths
from broker.ipc.control.api import ProcessStatus, SandboxStatus
from tests.kit.brokerctl import called

RECORD = """\
class = "persistent"
display = "allow"
[label]
name = "work"
colour = "green"
[launch]
network = "user"
[audio]
playback = "none"
"""
RULES = """\
vitrail.Camera         + work     @adminvm ask
vitrail.Notification   + work     @adminvm allow
vitrail.ClipboardPaste * @adminvm work     ask
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A user's settings with one record and three rules."""
    for name in ("CONFIG", "STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    made = tmp_path / "config" / "vitrail"
    (made / "sandboxes.d").mkdir(parents=True)
    (made / "policy.d").mkdir()
    (made / "sandboxes.d" / "work.toml").write_text(RECORD)
    (made / "policy.d" / "30-mine.policy").write_text(RULES)
    return made


def rows_of(name="work"):
    paths = offline_paths()
    row = SandboxRow(name, name, name, "#009e73")
    found = details_of(paths, row)
    return found.record, {one.permission.title: one for one in found.permissions}


def test_a_row_has_the_decision_and_its_line(config):
    _, rows = rows_of()
    assert rows["Show windows"].verdict == "allow"
    assert rows["Show windows"].value == "on"
    camera = rows["Use the camera"]
    assert (camera.verdict, camera.where.rpartition("/")[2]) == (
        "ask",
        "30-mine.policy:1",
    )
    assert "Asks you each time · 30-mine.policy:1" in camera.sentence()


def test_a_record_that_denies_is_named_with_its_line(config):
    _, rows = rows_of()
    sound = rows["Play sound"]
    assert sound.verdict == "deny"
    assert sound.where.endswith("work.toml:9:1")
    assert (sound.value, sound.values) == ("off", ("on", "off"))


def test_a_network_without_rules_is_not_said_to_be_denied(config):
    _, rows = rows_of()
    network = rows["Reach the network"]
    assert (network.verdict, network.value) == ("allow", "user")
    assert network.where.endswith("work.toml:7:1")


@pytest.mark.parametrize(
    ("title", "rule", "sentence"),
    [
        (
            "Use ssh keys",
            "vitrail.SshAgent * work @adminvm ask key=SHA256:" + 43 * "a",
            "Asks you, with conditions · 30-mine.policy:1",
        ),
        (
            "Print",
            "vitrail.Print +office work @adminvm allow",
            "Allowed, with conditions · 30-mine.policy:1",
        ),
        (
            "Open links elsewhere",
            "vitrail.OpenURL * work @default ask target=@dispvm:web scheme=https",
            "Asks you each time · 30-mine.policy:1",
        ),
        (
            "Open links elsewhere",
            "vitrail.OpenURL * work @default allow target=@dispvm:web host=x.org scheme=https",
            "Allowed, with conditions · 30-mine.policy:1",
        ),
        (
            "Ask for your files",
            "vitrail.FileDialog +save work @adminvm allow",
            "Denied · no rule matches",
        ),
    ],
)
def test_row_of_rule_with_conditions(config, title, rule, sentence):
    """A page that shows a possible call as denied is relied on."""
    web = RECORD.replace("persistent", "disposable").replace('"work"', '"web"')
    (config / "sandboxes.d" / "web.toml").write_text(web)
    (config / "policy.d" / "30-mine.policy").write_text(f"{rule}\n")
    _, rows = rows_of()
    assert rows[title].sentence() == sentence


def test_the_users_clipboard_is_a_permission_of_its_own_direction(config):
    _, rows = rows_of()
    assert rows["Receive what you copied"].verdict == "ask"
    assert rows["Place its copies on your clipboard"].verdict == "deny"


def test_a_rule_has_no_switch_and_says_what_changes_it(config):
    _, rows = rows_of()
    assert rows["Show notifications"].values == ()
    assert "30-mine.policy" in rows["Show notifications"].fixed
    assert "brokerctl policy edit" in rows["Print"].fixed


def test_a_sandbox_without_a_record_has_no_switch(config):
    record, rows = rows_of("box-1234")
    assert record is None
    assert not any(row.values for row in rows.values())
    assert "no record" in rows["Play sound"].fixed


def test_a_record_with_an_error_is_listed_with_it(config):
    (config / "sandboxes.d" / "work.toml").write_text(RECORD.replace("allow", "alow"))
    (row,) = record_rows(offline_paths())
    assert (row.name, row.state) == ("work", "error")
    assert "work.toml:2" in row.broken
    rows = details_of(offline_paths(), row).permissions
    assert rows == ()


def running_sandbox(name="web-1234", sandbox_class="disposable"):
    return SandboxStatus(
        name=name,
        record=name.partition("-")[0],
        sandbox_class=sandbox_class,
        label="web",
        color="#e69f00",
        state="running",
        since=0.0,
        pid=7,
    )


def test_running_disposable_listed_beside_its_record():
    records = (SandboxRow("web", "web", "web", "#e69f00"),)
    running = running_sandbox()
    worker = ProcessStatus(role="worker", pid=8, sandbox="web-1234", memory=1 << 20)
    rows = merged(records, [running], [worker])
    assert [(row.name, row.record, row.state) for row in rows] == [
        ("web-1234", "web", "running"),
        ("web", "web", "stopped"),
    ]
    assert rows[0].memory == 1 << 20
    assert rows[0].processes == {7, 8}


def test_running_box_offers_no_second_program(config):
    """A button of the page must be able to work; a box has no agent and no log."""
    record, _ = rows_of()
    status = running_sandbox("work", "persistent")
    row = SandboxRow("work", "work", "work", "#009e73", status=status)
    assert possible_actions(row, record) == {"program", "shell", "output"}
    assert possible_actions(row, None) == {"program", "shell", "output"}
    box = RECORD.replace("[launch]", '[launch]\nkind = "bwrap"\ncommand = ["foot"]')
    (config / "sandboxes.d" / "work.toml").write_text(box)
    record, _ = rows_of()
    assert possible_actions(row, record) == set()
    stopped = SandboxRow("work", "work", "work", "#009e73")
    assert possible_actions(stopped, record) == {"program"}


def test_the_last_use_says_who_decided():
    when = datetime(2026, 11, 29, 14, 2, tzinfo=UTC)
    row = PermissionRow(
        permission=None, verdict="ask", where="", last=LastUse("allow", "person", when)
    )
    assert (
        row.sentence()
        == "Asks you each time · last used 2026-11-29 14:02: allow by you"
    )


def test_a_check_of_a_setting_changes_nothing(config):
    env = {"XDG_CONFIG_HOME": str(config.parent)}
    answer = called("set", "work", "sound", "on", "--check", env=env)
    assert answer.code == 0
    assert '+playback = "allow"' in answer.out + answer.err
    assert (config / "sandboxes.d" / "work.toml").read_text() == RECORD


def test_a_rule_for_links_of_the_web_is_found(config):
    """Presets limit links to http and https; a call without a scheme matches no such rule."""
    rule = "vitrail.OpenURL * work @default ask target=@adminvm scheme=http,https\n"
    (config / "policy.d" / "30-mine.policy").write_text(rule)
    links = rows_of()[1]["Open links elsewhere"]
    assert links.verdict == "ask"
    assert links.where.endswith("30-mine.policy:1")


def test_records_are_read_again_when_a_file_changes(config, monkeypatch):
    read = []
    rows = RecordRows(offline_paths())
    monkeypatch.setattr(
        following,
        "record_rows",
        lambda paths: read.append(1) or record_rows(paths),
    )
    assert [row.title for row in rows.read()] == ["work"]
    rows.read()
    assert len(read) == 1
    file = config / "sandboxes.d" / "work.toml"
    file.write_text(RECORD.replace('name = "work"', 'name = "play"'))
    assert [row.title for row in rows.read()] == ["play"]
    file.unlink()
    assert rows.read() == ()
    assert len(read) == 3
