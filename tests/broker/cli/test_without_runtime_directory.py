"""Without XDG_RUNTIME_DIR no broker is found: no verb may claim that none runs."""

from __future__ import annotations

import pytest
import trio

from broker.cli.doctor.finding import Context, FindingState
from broker.cli.doctor.viewer import check_broker
from broker.core.paths import find_paths
from tests.kit.brokerctl import called, home

_RECORD = """\
class = "persistent"
[launch]
kind = "bwrap"
network = "user"
command = ["foot"]
"""


@pytest.fixture(name="env")
def _env():
    with home() as env:
        folder = find_paths(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        (folder / "boxa.toml").write_text(_RECORD)
        del env["XDG_RUNTIME_DIR"]
        yield env


@pytest.mark.parametrize(
    "words",
    [
        ("lockdown",),
        ("lockdown", "--lift"),
        ("lockdown", "--show"),
        ("prune", "--yes"),
        ("uninstall", "--yes"),
        ("sandbox", "remove", "boxa", "--yes"),
    ],
)
def test_what_depends_on_running_sandboxes_is_refused(env, words):
    """A lockdown above all: it would be reported, and the broker would continue."""
    answer = called(*words, env=env)
    assert answer.code == 1
    assert "XDG_RUNTIME_DIR is not set" in answer.err


@pytest.mark.parametrize("verb", ["list", "df"])
def test_what_only_reads_warns(env, verb):
    answer = called(verb, env=env)
    assert answer.code == 0
    assert (
        "cannot determine the running sandboxes: XDG_RUNTIME_DIR is not set"
        in answer.err
    )


def test_doctor_does_not_report_that_no_broker_runs(env):
    paths = find_paths({**env, "XDG_RUNTIME_DIR": "/run/user/1"})
    (finding,) = trio.run(check_broker, Context(paths, env))
    assert finding.state is FindingState.WARN
    assert finding.text.startswith("unknown")


def test_without_home_the_users_records_are_read(monkeypatch, tmp_path):
    """'list' reported that there are no records."""
    monkeypatch.setattr("pwd.getpwuid", lambda _: _Account(str(tmp_path)))
    paths = find_paths({"XDG_RUNTIME_DIR": "/run/user/1"})
    assert paths.config[0] == tmp_path / ".config/vitrail"
    assert paths.state == tmp_path / ".local/state/vitrail"


class _Account:
    def __init__(self, home):
        self.pw_dir = home
