"""The JSON of verbs that ask a running broker, with a window of a box on the screen."""

from __future__ import annotations

import json
from typing import Any

from tests.frozen.present import short
from tests.kit.brokerctl import brokerctl, running
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import World, world

RECORD = """\
class = "persistent"
display = "allow"
[audio]
playback = "allow"
[launch]
kind = "bwrap"
"""
ANSWERED = (
    "clipboard status --json",
    "grants list --json",
    "list --json",
    "pending --json",
    "status --json",
    "status work --json",
    "windows --json",
)
"""Calls of brokerctl whose JSON is a sample."""


async def running_documents() -> dict[str, Any]:
    """Return the documents of each call, with short lists."""
    async with world({"work": RECORD}, image=False) as w:
        command = ("run", "-q", "work", "--", "foot", "-T", "sample", "sleep", "1000")
        async with running(*command, env=w.environ):
            await wait_window(w.comp, title="sample")
            documents = {line: await _documents(w, line) for line in ANSWERED}
            await brokerctl("stop", "work", env=w.environ)
    return documents


async def _documents(w: World, line: str) -> list[Any]:
    answer = await brokerctl(*line.split(), env=w.environ)
    if not answer.out:  # status of the clipboard: 1 where chords do not work
        raise ValueError(f"brokerctl {line}: {answer.err}")
    text = answer.out.replace(str(w.base), "/home/user")
    return [short(json.loads(row)) for row in text.splitlines()]
