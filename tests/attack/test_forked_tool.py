"""Attack: a copy of the guest agent's process uses the agent's descriptors and sockets."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shims.guest import account as account_module
from shims.guest.account import Account
from shims.guest.own_process import is_forked, load_tool

ROOT = Path(__file__).parents[2]
# The tool of this test reports where it runs.
TOOL = """\
import gc, json, os, sys
def main(words):
    held = []
    for name in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink("/proc/self/fd/" + name))
        except OSError:
            pass  # of the list itself
    print(json.dumps(dict(
        held=held, environ=dict(os.environ), argv=sys.argv, words=words,
        place=os.getcwd(), leads=os.getsid(0) == os.getpid(), input=sys.stdin.read(),
        enabled=gc.isenabled(), comm=open("/proc/self/comm").read().strip(),
    )))
    sys.stderr.write("to its errors")
    return 7
"""
AGENT = """\
import os, signal, sys
from shims.guest.own_process import ForkedTool, fork_tool
class Account:
    home = {home!r}
    def become(self):
        os.write(1, b"became the user\\n")
secret = open({secret!r})
os.set_inheritable(secret.fileno(), True)
os.environ["OF_THE_AGENT"] = "1"
signal.signal(signal.SIGTERM, lambda *_: None)
streams = [os.open({out!r} + name, os.O_CREAT | os.O_WRONLY) for name in ("out", "err")]
words = ["vitrail-files", "receive", "token"]
tool = ForkedTool(Account(), {directory!r}, words, {{"A": "b"}}, (-1, *streams))
pid = fork_tool(tool)
assert os.getpgid(pid) == pid  # a signal to the group reaches it from now on
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def forked(place, home, environ):
    """Run an agent that forks the tool of the directory; return how its process ended."""
    text = AGENT.format(
        home=home,
        secret=str(place / "secret"),
        out=f"{place}/",
        directory=str(place),
    )
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.fixture(name="ran")
def _ran(tmp_path):
    """The process in which a tool ran as the agent's copy, and its output."""
    (tmp_path / "vitrail_files.py").write_text(TOOL)
    (tmp_path / "home").mkdir()
    (tmp_path / "secret").write_text("of the agent")
    done = forked(tmp_path, str(tmp_path / "home"), {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 7, done
    printed = (tmp_path / "out").read_text()
    assert (tmp_path / "err").read_text() == "to its errors"
    return tmp_path, printed


def test_it_has_nothing_of_the_agent(ran):
    base, printed = ran
    first, report = printed.splitlines()
    assert first == "became the user"
    found = json.loads(report)
    files = sorted(path for path in found["held"] if not path.startswith("/proc/"))
    assert files == sorted(["/dev/null", f"{base}/out", f"{base}/err"])
    assert found["environ"] == {"A": "b"}
    assert found["leads"]
    assert found["place"] == str(base / "home")


def test_it_starts_as_a_program_does(ran):
    _, printed = ran
    found = json.loads(printed.splitlines()[1])
    assert found["argv"] == ["vitrail-files", "receive", "token"]
    assert found["words"] == ["receive", "token"]
    assert (found["input"], found["enabled"]) == ("", True)
    assert found["comm"] == "vitrail-files"


def test_the_user_is_taken_groups_first(monkeypatch):
    """A process that is the user already cannot leave root's groups."""
    calls = []
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(
            account_module.os,
            name,
            lambda value, name=name: calls.append((name, value)),
        )
    user = Account()
    user.become()
    assert calls == []  # it is the user
    user._switch = {"user": 1000, "group": 1001, "extra_groups": [1001, 7]}
    user.uid, user.gid = 1000, 1001
    user.become()
    assert calls == [("setgroups", [1001, 7]), ("setgid", 1001), ("setuid", 1000)]


@pytest.mark.parametrize(
    ("words", "terminal", "expected"),
    [
        (["vitrail-files", "receive", "t"], False, True),
        (["vitrail-files", "open-here", "https://x/"], False, True),
        (["vitrail-files", "give", "t"], False, True),
        (["vitrail-files", "receive", "t"], True, False),
        (["vitrail-files", "portal"], False, False),
        (["vitrail-files"], False, False),
        (["/home/user/vitrail-files", "receive", "t"], False, False),
        (["foot"], False, False),
    ],
)
def test_only_the_tools_own_verbs_run_so(words, terminal, expected):
    assert is_forked(words, terminal=terminal) is expected


def test_an_error_of_the_tool_is_not_the_agents(tmp_path):
    """Whatever it raises, the copy ends; it never continues in the agent's loop."""
    (tmp_path / "vitrail_files.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "secret").touch()
    done = forked(tmp_path, "/", dict(os.environ, PYTHONPATH=str(ROOT)))
    assert done.returncode == 1
    assert "KeyboardInterrupt" in (tmp_path / "err").read_text()


def test_a_file_of_another_user_is_not_imported_by_the_agent(tmp_path, monkeypatch):
    """It is imported in the copy, which is the tool's user by then."""
    monkeypatch.setitem(sys.modules, "vitrail_files", None)
    del sys.modules["vitrail_files"]
    (tmp_path / "vitrail_files.py").write_text(
        f"import os; os.mkdir({str(tmp_path / 'ran')!r})"
    )
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    load_tool(str(tmp_path))
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(os, "geteuid", os.getuid)
    load_tool(str(tmp_path))
    assert (tmp_path / "ran").exists()
