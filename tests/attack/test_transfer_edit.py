"""Attack: a sandbox that was sent a file to edit returns something else."""

from __future__ import annotations

import os

import pytest

from tests.integration.test_opening import EDITS, sandboxes
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.shims import files_program

pytestmark = requires("waypipe")
# In place of the guest's program: speaks the protocol, as it likes.
HOSTILE = """\
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("tool", {tool!r})
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
mode = {mode!r}
first = tool.BrokerConnection("VITRAIL_COPY")
first.send(tool.frame(dict(type="take", token=sys.argv[2])))
delivery = first.wait("delivery")
while tool.read_message(first.reader)["type"] != "end":
    first.reader.read(1)
first.socket.close()

def back(token, size, *entries):
    connection = tool.BrokerConnection("VITRAIL_COPY")
    connection.send(tool.frame(dict(type="return", token=token, size=size)))
    connection.wait("go")
    for entry in entries:
        connection.send(entry if isinstance(entry, bytes) else tool.frame(entry))
    return connection

def file(size):
    return dict(type="file", path=["notes.txt"], size=size)

end, token = dict(type="end"), delivery["back"]
if mode == "too large":
    back(token, 2 << 20)
elif mode == "larger than announced":
    back(token, 10, file(2 << 20), bytes(2 << 20), end).wait("done")
elif mode == "another token":
    back("0" * 32, 3, file(3), b"bad", end).wait("done")
elif mode == "a directory":
    back(token, 0, dict(type="dir", path=["notes.txt"]), end).wait("done")
elif mode == "a script":
    back(token, 9, file(9), b"#!/bin/sh", end).wait("done")
elif mode == "half of it":
    back(token, 100, file(100), b"bad").socket.close()
elif mode == "twice":
    back(token, 3, file(3), b"new", end).wait("done")
    back(token, 3, file(3), b"bad", end).wait("done")

def main(words):
    return 0
"""
MODES = (
    "too large",
    "larger than announced",
    "another token",
    "a directory",
    "a script",
    "half of it",
    "twice",
)


@pytest.mark.parametrize("mode", MODES)
async def test_what_may_not_come_back_leaves_the_file_as_it_was(mode):
    async with sandboxes(EDITS) as (w, work, personal):
        tool = personal.folder / "runtime/vitrail_files.py"
        values = {"tool": str(files_program()), "mode": mode}
        tool.write_text(HOSTILE.format(**values))
        notes = work.home / "notes.txt"
        notes.write_text("x")
        code, said = await work.command("vitrail-open", "--edit", "notes.txt")
        good = mode == "twice"
        assert code == (0 if good or mode == "another token" else 1), said
        assert notes.read_text() == ("new" if good else "x")
        kept = ["notes.txt", "notes.txt~"] if good else ["notes.txt"]
        assert sorted(os.listdir(work.home)) == kept
        # It is recorded after the file is back.
        await eventually(lambda: len(w.events("transfer.returned")) == good)
