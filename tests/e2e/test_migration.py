"""What an earlier version has left is taken over: records, rules, log, home, a running box.

The earlier version's own code writes it, from this repository's history.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from broker.core.paths import find_paths
from broker.helpers.process.spawn import PIPE, spawn
from docs.tables.imports import ROOT
from tests.kit.brokerctl import brokerctl
from tests.kit.needs import PID_NAMESPACES
from tests.kit.records import shown_record
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

EARLIER = "18e345dba"
"""The last commit before the house was put in order."""
pytestmark = [
    PID_NAMESPACES,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("bwrap"), reason="no bubblewrap"),
]
RECORD = shown_record(
    'kind = "bwrap"', 'network = "none"', 'command = ["foot"]', colour="purple"
)
RULES = """\
vitrail.ClipboardPaste * @anyvm keep ask
vitrail.OpenURL +https keep @adminvm allow
"""
WRITES = "echo kept > ~/note; exec foot -T earlier sleep 1000"


@pytest.fixture(scope="module")
def earlier():
    """The tree of the earlier version, with what is compiled of it."""
    # The checkout may be another user's.
    git = ["git", "-c", f"safe.directory={ROOT}"]
    if not shutil.which("git"):
        pytest.skip("no git")
    if subprocess.run(
        [*git, "cat-file", "-e", EARLIER], cwd=ROOT, check=False, capture_output=True
    ).returncode:
        pytest.skip(f"the history here does not reach back to {EARLIER}")
    archive = subprocess.run(
        [*git, "archive", EARLIER, "broker", "policy", "shims", "docs"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    # Not below /tmp, which the jails of its processes replace.
    find_paths().cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=find_paths().cache) as tree:
        subprocess.run(["tar", "-xC", tree], input=archive, check=True)
        yield tree


@dataclass
class Earlier:
    """The earlier version's brokerctl in a world of today's."""

    tree: str
    environ: dict[str, str]

    async def __call__(self, *words, code=0):
        done = await trio.run_process(
            self._argv(words),
            env={**self.environ, "PYTHONPATH": self.tree},
            cwd=self.tree,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout.decode()

    def _argv(self, words):
        return [sys.executable, "-c", "from broker.cli.app import main; main()", *words]

    @asynccontextmanager
    async def running(self, *words):
        child = spawn(
            self._argv(words),
            env={**self.environ, "PYTHONPATH": self.tree},
            cwd=self.tree,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            yield child
        finally:
            with trio.CancelScope(shield=True):
                await child.stop()
            child.popen.stdout.close()
            child.popen.stderr.close()


async def test_what_an_earlier_version_left_is_taken_over(earlier):
    async with world({"keep": RECORD}, image=False, start=False) as w:
        w.write_rules(RULES)
        before = Earlier(earlier, w.environ)
        async with before.running("run", "keep", "--", "sh", "-c", WRITES):
            await wait_window(w.comp, title="[keep] earlier")
            log = json.loads(await before("audit", "verify", "--json"))

            # Today's brokerctl beside the earlier broker: it answers, or says what to do.
            for words in (("list",), ("status",), ("audit",)):
                answer = await brokerctl(*words, env=w.environ)
                assert "Traceback" not in answer.err, answer
                assert answer.code == 0 or "brokerctl restart" in answer.err, answer

            done = await brokerctl("restart", "--yes", env=w.environ, deadline=120)
            assert done.code == 0, done
            assert "keep" in done.err, "what becomes of the running box is said"
            assert "#cc79a7" in (await brokerctl("list", env=w.environ)).out
        checked = await brokerctl("audit", "verify", "--json", env=w.environ)
        assert checked.code == 0, checked
        now = json.loads(checked.out)
        assert now["good"], now
        assert now["size"] > log["size"] > 0
        assert now["origin"] == log["origin"]
        assert (await brokerctl("policy", "check", env=w.environ)).code == 0
        await brokerctl("stop", "keep", env=w.environ)
        note = await brokerctl("run", "keep", "--", "cat", "note", env=w.environ)
        assert (note.code, note.out) == (0, "kept\n"), note
