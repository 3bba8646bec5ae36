"""Mistakes in audit.toml, clipboard.toml, link.toml and ship.toml, with their place."""

from __future__ import annotations

import json
import os

import pytest
import trio
from click.testing import CliRunner

from broker.cli.doctor.finding import Context, FindingState
from broker.cli.doctor.viewer import check_policy
from broker.cli.policy.verbs import command
from broker.core.errors import UpstreamError
from broker.core.paths import Paths
from broker.ipc.session.display_orders import READ_CHORDS, ReadChords
from broker.ipc.session.folder_orders import CHECK_SETTINGS, CheckSettings
from broker.session.settings_files import settings_problems
from broker.viewer.orders.session_orders import answered_file
from broker.viewer.settings_watch import SettingsWatch
from broker.wire.pending_call import Answer
from broker.wire.row import Empty
from tests.kit.session import starter_of_orders

GOOD = {
    "audit.toml": 'mode = "required"\nkeep = "90d"\n',
    "clipboard.toml": 'preset = "qubes"\n',
    "link.toml": 'listen = "vsock:any:6499"\n',
    "ship.toml": '[[target]]\nname = "file"\nto = "jsonl"\npath = "/tmp/a.jsonl"\n',
}
WRONG = [
    # file, text, line and column, a word of the message
    ("audit.toml", "\nmax_megabytes = 2\n", (2, 17), ">= 8"),
    ("audit.toml", 'mode = "required"\nkep = "90d"\n', (2, 1), "kep"),
    ("audit.toml", 'keep = "soon"\n', (1, 1), "span of time"),
    ("audit.toml", 'mode = "required"\nkeep \n', (2, 6), "Expected"),
    ("clipboard.toml", 'presets = "qubes"\n', (1, 1), "presets"),
    ("clipboard.toml", 'preset = "emacs"\n', (1, 1), "no preset is named 'emacs'"),
    ("link.toml", 'listen = "vsock:any:6499"\npieces = -1\n', (2, 10), ">= 0"),
    ("link.toml", 'connect = "vsock:2:1"\nlisten = "vsock:any:1"\n', (1, 1), "both"),
    ("ship.toml", '[[target]]\nname = "a"\nto = "nowhere"\n', (3, 6), "nowhere"),
    ("ship.toml", '[[target]]\nname = "A B"\nto = "journald"\n', (1, 1), "not a name"),
]
WRONG_ONCE = {
    "audit.toml": 'keep = "soon"\n',
    "clipboard.toml": 'preset = "emacs"\n',
    "link.toml": "pieces = -1\n",
    "ship.toml": '[[target]]\nname = "A B"\nto = "journald"\n',
}


class Checks:
    """A session that checks here."""

    def __init__(self, paths):
        self._paths = paths
        self.fails = False
        self.failed = trio.Event()

    async def carry_out(self, _row, _order, *, warrant=b""):
        await trio.lowlevel.checkpoint()
        if self.fails:
            self.failed.set()
            raise UpstreamError("no process for it")
        lines = [problem.first_line() for problem in settings_problems(self._paths)]
        fd = os.memfd_create("lines")
        os.pwrite(fd, json.dumps(lines).encode(), 0)
        return Answer(Empty(), [fd])


@pytest.fixture(name="paths")
def _paths(tmp_path):
    config = tmp_path / "config"
    config.mkdir(mode=0o755)
    for name in ("policy.d", "sandboxes.d"):
        (config / name).mkdir(mode=0o755)
    (config / "policy.d" / "30-a.policy").write_text("vitrail.FileCopy * * * deny\n")
    return Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", (config,))


def test_good_files_have_no_problem(paths):
    assert settings_problems(paths) == []
    for name, text in GOOD.items():
        (paths.config[0] / name).write_text(text)
    assert settings_problems(paths) == []


@pytest.mark.parametrize(("name", "text", "place", "word"), WRONG)
def test_mistake_is_reported_with_its_place(paths, name, text, place, word):
    file = paths.config[0] / name
    file.write_text(text)
    (problem,) = settings_problems(paths)
    assert problem.file == str(file)
    assert (problem.span.line, problem.span.column) == place, problem
    assert word in problem.message


def test_check_reports_a_mistake_of_a_named_settings_directory(paths):
    (paths.config[0] / "audit.toml").write_text("max_megabytes = 2\n")
    done = CliRunner().invoke(command, ["check", str(paths.config[0])])
    assert done.exit_code == 1
    assert "audit.toml:1:17: " in done.output
    assert "  | max_megabytes = 2\n  |                 ^" in done.output


async def test_doctor_fails_where_a_settings_file_keeps_the_broker_from_starting(paths):
    assert (await check_policy(Context(paths)))[0].state is not FindingState.FAIL
    (paths.config[0] / "audit.toml").write_text("max_megabytes = 2\n")
    (finding,) = await check_policy(Context(paths))
    assert finding.state is FindingState.FAIL
    assert "audit.toml:1:17" in finding.text


def test_check_shows_warnings_beside_errors_and_strict_counts_them(paths):
    rules = paths.config[0] / "policy.d" / "30-a.policy"
    rules.write_text("vitrail.OpenURLs * * * deny\n")
    directory = str(paths.config[0])
    done = CliRunner().invoke(command, ["check", directory])
    assert (done.exit_code, "unknown-service" in done.output) == (0, True)
    assert CliRunner().invoke(command, ["check", "--strict", directory]).exit_code == 1
    rules.write_text("vitrail.OpenURLs * * * deny\nvitrail.FileCopy\n")
    done = CliRunner().invoke(command, ["check", "--json", directory])
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert (len(found["problems"]), len(found["warnings"])) == (1, 1)


async def test_a_running_broker_tells_of_a_mistake_once_and_warns_until_it_is_mended(
    paths, nursery, autojump_clock
):
    told, more = trio.open_memory_channel(100)
    watch = SettingsWatch(
        paths, Checks(paths), lambda title, text: told.send_nowait((title, text))
    )
    nursery.start_soon(watch.run)
    for name, wrong in WRONG_ONCE.items():
        (paths.config[0] / name).write_text(wrong)
        title, text = await more.receive()
        assert title == "Vitrail: a settings file has a mistake"
        assert f"{name}:1:" in text
    assert [line.partition(":")[0] for line in watch.warnings()] == [
        str(paths.config[0] / name) for name in sorted(WRONG_ONCE)
    ]
    for name in WRONG_ONCE:
        (paths.config[0] / name).write_text(GOOD[name])
    while watch.warnings():
        await trio.sleep(1)  # of the clock that jumps
    assert more.statistics().current_buffer_used == 0


async def test_a_check_that_is_not_carried_out_is_made_again(
    paths, nursery, autojump_clock
):
    told, more = trio.open_memory_channel(100)
    checks = Checks(paths)
    checks.fails = True
    watch = SettingsWatch(paths, checks, lambda *said: told.send_nowait(said))
    name, wrong = next(iter(WRONG_ONCE.items()))
    nursery.start_soon(watch.run)
    await checks.failed.wait()
    checks.fails = False
    (paths.config[0] / name).write_text(wrong)
    _, text = await more.receive()
    assert f"{name}:1:" in text


async def test_a_session_child_checks_and_reads_settings(paths):
    config = paths.config[0].parent / "xdg"
    config.mkdir()
    (config / "vitrail").symlink_to(paths.config[0])
    (paths.config[0] / "audit.toml").write_text(WRONG_ONCE["audit.toml"])
    (paths.config[0] / "clipboard.toml").write_text(GOOD["clipboard.toml"])
    environ = dict(os.environ, XDG_CONFIG_HOME=str(config))
    with starter_of_orders(environ) as session:
        lines = json.loads(
            await answered_file(session, CHECK_SETTINGS, CheckSettings())
        )
        choice = json.loads(await answered_file(session, READ_CHORDS, ReadChords()))
    assert [line.partition(":")[0].rpartition("/")[2] for line in lines] == [
        "audit.toml"
    ]
    assert choice["preset"] == "qubes"


def test_services_of_the_desktop_are_read(paths):
    folder = paths.config[0] / "services.d"
    folder.mkdir(mode=0o755)
    (folder / "good.toml").write_text("command = ['/bin/true']\n")
    assert settings_problems(paths) == []
    (folder / "bad.toml").write_text("command = ['/bin/true']\nnetwrok = true\n")
    (problem,) = settings_problems(paths)
    assert (problem.file, problem.span.line) == (str(folder / "bad.toml"), 2)
    assert "netwrok" in problem.message
    done = CliRunner().invoke(command, ["check", str(paths.config[0])])
    assert done.exit_code == 1
    assert "bad.toml:2:1" in done.output
