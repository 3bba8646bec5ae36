"""Files and links between real micro VMs, by a real broker's rules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.eventually import eventually
from tests.kit.world import record, world

RULES = """\
vitrail.OpenURL  * work @default allow target=@dispvm:web scheme=https
vitrail.OpenFile * work @default allow target=@dispvm:viewer max-size=1M return=yes
vitrail.FileCopy * work personal allow max-size=100M
vitrail.FileCopy * work @adminvm allow max-size=100M
"""
_SHOW = """\
class = "disposable"
display = "allow"
[label]
colour = "{colour}"
[launch]
memory = "512M"
network = "none"
command = ["python3", "-c", '''{command}''']
"""
_SAY = """
import sys, time
print("got", sys.argv[1], flush=True)
time.sleep(600)
"""
WEB = _SHOW.format(colour="orange", command=_SAY)
_LOOK = """
import os, sys, time
path = sys.argv[1]
print(oct(os.stat(path).st_mode), open(path).read(), os.path.basename(path), flush=True)
try:
    os.chmod(path, 0o600)
    open(path, "a").write(" and more")
except OSError as error:
    print("sealed:", error.strerror, flush=True)
    time.sleep(600)
"""
VIEWER = _SHOW.format(colour="red", command=_LOOK)


def records():
    return {
        "work": record("persistent", colour="blue"),
        "personal": record("persistent", colour="green"),
        "web": WEB,
        "viewer": VIEWER,
    }


def rules_of(w):
    w.write_rules(RULES)


async def printed(w, sandbox_prefix, wanted):
    """Wait until a program of a sandbox has printed something; returns its name."""

    async def look():
        for sandbox in (await w.status()).sandboxes:
            if sandbox.name.startswith(sandbox_prefix):
                for log in w.paths.logs(sandbox.name).glob("program-*.log"):
                    if wanted in log.read_bytes():
                        return sandbox.name
        return ""

    return await eventually(look, deadline=120)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_links_and_files_go_where_the_rules_send_them(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    async with world(records(), start=False, extra={"HOME": str(home)}) as w:
        rules_of(w)
        await w.start()
        await a_link(w)
        await a_document(w)
        await directories(w, home)


async def a_link(w):
    code, out = await w.output("work", "xdg-open", "https://Example.org/a?b")
    assert (code, out) == (0, b"vitrail: starting web\n") or code == 0, out
    name = await printed(w, "web", b"got https://example.org/a?b")
    begun = await w.wait_event("transfer.begin", sandbox="work")
    assert begun["target"] == "@dispvm:web"
    await w.stop(name)
    for bad in ("http://example.org/", "javascript:alert(1)", "https://a@b/"):
        code, out = await w.output("work", "xdg-open", bad)
        assert code == 1, out
        assert b"vitrail: " in out


async def a_document(w):
    write = "printf 'some notes' > /tmp/notes.txt; vitrail-open /tmp/notes.txt"
    code, out = await w.output("work", "sh", "-c", write)
    assert code == 0, out
    name = await printed(w, "viewer", b"0o100400 some notes notes.txt")
    await printed(w, "viewer", b"sealed: Read-only file system")
    await w.stop(name)
    # Opened for editing, it comes back, and the disposable ends with the editor.
    edit = "vitrail-open --edit /tmp/notes.txt; cat /tmp/notes.txt /tmp/notes.txt~"
    code, out = await w.output("work", "sh", "-c", edit)
    assert (code, b"some notes and moresome notes" in out) == (0, True), out
    returned = await w.wait_event("transfer.returned", sandbox="work")
    assert returned["bytes"] == len("some notes and more")

    async def gone():
        return not [
            s for s in (await w.status()).sandboxes if s.name.startswith("viewer")
        ]

    await eventually(gone, deadline=60)
    for make in (
        "printf '#!/bin/sh' > /tmp/a.txt",
        "head -c 2000000 /dev/zero > /tmp/a.txt",
    ):
        code, out = await w.output(
            "work", "sh", "-c", f"{make}; vitrail-open /tmp/a.txt"
        )
        assert code == 1, out
    assert not [s for s in (await w.status()).sandboxes if s.name.startswith("viewer")]


async def directories(w, home: Path):
    make = (
        "mkdir -p /tmp/d/e; for i in $(seq 200); do echo $i > /tmp/d/e/$i; done;"
        "head -c 5000000 /dev/urandom > /tmp/d/big; ln -s /etc/passwd /tmp/d/link;"
        "chmod 4755 /tmp/d/big; cd /tmp; find d -type f | sort | xargs sha256sum > s;"
        "vitrail-copy d s "
    )
    code, out = await w.output("work", "sh", "-c", make + "personal")
    assert code == 0, out
    check = (
        "cd ~; while [ ! -e Incoming/work/s ]; do sleep 0.2; done;"
        "cd ~/Incoming/work && sha256sum -c --quiet s && stat -c %a d/big &&"
        "ls -A . d; test ! -e d/link && echo fine"
    )
    code, out = await w.output("personal", "sh", "-c", check)
    assert (code, out.split()[0], out.split()[-1]) == (0, b"600", b"fine"), out
    code, out = await w.output("work", "sh", "-c", "cd /tmp; vitrail-copy d s @adminvm")
    assert code == 0, out
    assert sorted(os.listdir(home / "Incoming/work")) == ["d", "s"]
    assert len(list((home / "Incoming/work/d/e").iterdir())) == 200
    code, out = await w.output("work", "vitrail-copy", "/etc/hostname", "nowhere")
    assert (code, b"denied" in out) == (1, True), out
    ends = w.events("transfer.end", outcome="done", files=204)
    assert [end["target"] for end in ends] == ["personal", "dom0"]
