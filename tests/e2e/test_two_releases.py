"""A link between two releases: refused at once, with both versions, at both ends.

The older release is this checkout with the number of the link's version before this one;
VITRAIL_OLDER names the tree of a real one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import STDOUT, spawn
from broker.net.link.wire_types import VERSION
from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two

ROOT = Path(__file__).parents[2]
_NUMBER = re.compile(r"^VERSION = (\d+)$", re.MULTILINE)


def older_release(place: Path) -> tuple[Path, int]:
    """Return the tree of an older release and its version of the link."""
    named = os.environ.get("VITRAIL_OLDER")
    tree = Path(named) if named else place
    types = tree / "broker/net/link/wire_types.py"
    if not named:
        ours = shutil.ignore_patterns("__pycache__")
        for name in ("broker", "policy", "shims"):
            shutil.copytree(ROOT / name, tree / name, ignore=ours)
        types.write_text(_NUMBER.sub(f"VERSION = {VERSION - 1}", types.read_text()))
    version = int(_NUMBER.search(types.read_text())[1])
    assert version < VERSION
    return tree, version


@asynccontextmanager
async def running_older(side, tree):
    """The broker of that side, from the other tree."""
    # As 'our_program' of that tree.
    argv = [sys.executable, "-I", "-B", str(tree / "broker"), side.module, *side.words]
    side.paths.state.mkdir(parents=True, exist_ok=True)
    side.paths.runtime.mkdir(parents=True, exist_ok=True)
    with (side.paths.state / "broker.log").open("ab") as log:
        child = spawn(
            argv,
            env=side.environ,
            stdout=log.fileno(),
            stderr=STDOUT,
        )
    try:
        yield child
    finally:
        os.kill(child.pid, signal.SIGTERM)
        with trio.move_on_after(30, shield=True) as scope:
            await child.wait()
        if scope.cancelled_caught:
            child.kill()


async def said(side, tree):
    """The line of the link in ``brokerctl status``, by the side's own release."""
    env = {**side.environ, "PYTHONPATH": str(tree)}
    done = await trio.run_process(
        [sys.executable, "-m", "broker.cli.app", "status"],
        env=env,
        cwd=tree,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    return next(
        (
            line
            for line in done.stdout.decode().splitlines()
            if line.startswith("link:") and "version" in line
        ),
        None,
    )


@pytest.mark.slow
@pytest.mark.parametrize("older", ["host", "viewer"])
async def test_an_older_end_is_refused_with_both_versions_at_both_ends(older, tmp_path):
    tree, version = older_release(tmp_path)
    async with two(start=False, image=False) as t:
        old, new = (t.host, t.viewer) if older == "host" else (t.viewer, t.host)
        await new.start()
        async with running_older(old, tree):
            at_new = await eventually(lambda: said(new, ROOT), deadline=60)
            at_old = await eventually(lambda: said(old, tree), deadline=60)
        mine, theirs = (
            f"uses version {other} of the link, but this one uses version {own}"
            for other, own in ((version, VERSION), (VERSION, version))
        )
        assert mine in at_new
        assert theirs in at_old
        for line in (at_new, at_old):
            assert not line.startswith("link: up")
        if older == "host":
            run = await brokerctl("run", "app", env=t.viewer.environ)
            assert run.code != 0
            assert mine in run.err
