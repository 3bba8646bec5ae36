"""An edit on trial under a running broker: in force, then by itself as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError
from tests.kit.rulebook import rulebook

ROOT = Path(__file__).parents[2]
BEFORE = "a * * @adminvm allow\n"
AFTER = "a * * @adminvm deny\n"


async def _allowed(b):
    try:
        await b.once("a")
    except RefusedError:
        return False
    return True


async def _held(b):
    """Something that continues until it is cut."""
    with trio.fail_after(60):
        async with b.decider.permit(b.request("a")):
            await trio.sleep_forever()


async def _until(b, allowed):
    """Wait for reloads until the answer is this one."""
    with trio.fail_after(60):
        while await _allowed(b) != allowed:
            await b.reloaded.wait()


@pytest.mark.parametrize("said", ["", "keep\n"])
async def test_in_force_and_back(said):
    """Denied on trial, live streams are cut; kept on confirmation, else allowed again."""
    async with rulebook(BEFORE) as b, trio.open_nursery() as nursery:
        (b.path / "run").mkdir(mode=0o700, exist_ok=True)
        await b.follow(nursery)
        editor = b.path / "editor"
        editor.write_text(f'#!/bin/sh\nprintf %s "{AFTER}" > "$1"\n')
        editor.chmod(0o755)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(b.path),
            "XDG_RUNTIME_DIR": str(b.path / "run"),
            "XDG_CONFIG_DIRS": str(b.path / "none"),
            "EDITOR": str(editor),
        }
        words = ["policy", "edit", "50-test.policy", "--yes", "--confirm", "30s"]
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "broker.cli.app", *words],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with pytest.raises(RefusedError, match="denied"):
                await _held(b)
            assert not await _allowed(b)
            assert (b.folder / "50-test.policy").read_text() == BEFORE
            # The terminal goes, or the word is said.
            await process.stdin.send_all(said.encode())
            await process.stdin.aclose()
            with trio.fail_after(60):
                assert await process.wait() == (0 if said else 1)
        finally:
            process.kill()
            await process.wait()
        await _until(b, allowed=not said)
        expected = AFTER if said else BEFORE
        assert (b.folder / "50-test.policy").read_text() == expected
        nursery.cancel_scope.cancel()
