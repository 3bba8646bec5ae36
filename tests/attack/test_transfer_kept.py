"""Attack: a target sandbox takes all bytes of a copy and does not keep them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.integration.test_opening import run_cli, sandboxes
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.shims import files_program

pytestmark = requires("waypipe")
RULES = "vitrail.FileCopy * work personal allow max-size=20M\n"
# The guest's own program, on a disk that has room for no file.
FULL = """\
#!/bin/sh
exec unshare -rm sh -c 'mount -t tmpfs -o {options} none "$HOME/Incoming" && exec "$0" -I {tool} "$@"' {python} "$@"
"""
# In place of it: takes everything, and then does as it likes.
HOSTILE = """\
#!{python}
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("tool", {tool!r})
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
connection = tool.BrokerConnection("VITRAIL_COPY")
connection.send(tool.frame(dict(type="take", token=sys.argv[2])))
connection.wait("delivery")
while True:
    entry = tool.read_message(connection.reader)
    if entry["type"] == "end":
        break
    connection.reader.read(entry["size"])
sys.stderr.write("vitrail: a secret of the target\\n")
sys.stderr.flush()
{end}
"""


def _namespaces():
    """Whether the user may mount a file system."""
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    done = subprocess.run(words, capture_output=True, check=False)
    return done.returncode == 0


def replace_tool(guest, text, **values):
    guest.replace_tool(
        text.format(python=sys.executable, tool=str(files_program()), **values)
    )


# No room for bytes, for another file, for the directory.
@pytest.mark.parametrize(
    "options", ["size=64k", "size=200M,nr_inodes=2", "size=200M,nr_inodes=1"]
)
async def test_a_full_disk_of_the_target_is_reported_to_the_sender(options):
    if not _namespaces():
        pytest.skip("no mounts of one's own: there is no user namespace")
    async with sandboxes(RULES) as (w, work, personal):
        (personal.home / "Incoming").mkdir()
        replace_tool(personal, FULL, options=options)
        mine = w.base / "mine"
        mine.write_text("mine")
        (work.home / "small").write_text("some notes")
        (work.home / "large").write_bytes(bytes(8 << 20))
        for name in ("small", "large"):
            code, said = await work.command("vitrail-copy", name, "personal")
            assert (code, "personal has no disk space" in said) == (1, True), said
        code, said = await run_cli(w, "cp", f"{mine}", "personal:")
        assert (code, "personal has no disk space" in said) == (1, True), said
        await eventually(lambda: len(w.events("transfer.end")) == 3)
        assert not w.events("transfer.end", outcome="done")
        assert len(w.events("transfer.end", outcome="failed")) == 3


async def test_a_program_that_fails_has_kept_nothing_and_its_words_stay():
    async with sandboxes(RULES) as (w, work, personal):
        (work.home / "notes").write_text("some notes")
        for end in ("sys.exit(1)", "os.kill(os.getpid(), 9)", "sys.exit(99)"):
            replace_tool(personal, HOSTILE, end=end)
            code, said = await work.command("vitrail-copy", "notes", "personal")
            assert (code, "personal did not store" in said) == (1, True), said
            assert "secret" not in said
        ends = w.events("transfer.end", outcome="failed")
        assert len(ends) == 3
        assert not any("secret" in end["reason"] for end in ends)
