"""What the user mounts below a shared directory while sandboxes and services run.

As a user meets it: a real broker, a box by its record, ``brokerctl share``, a service of
the desktop; then a vault is unlocked below each of these directories.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from tests.kit.brokerctl import running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.records import shown_record
from tests.kit.shared_mounts import (
    mount_memory,
    namespaces_with_later_mounts,
    run_in_shared_mounts,
    unmount,
)
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, requires("bwrap")]
NAMES = ("only", "write", "kept", "docs", "live", "live-write", "service", "served")
RULES = """\
vitrail.Folder *     work @adminvm allow write=yes
vitrail.Call   *     work @adminvm allow
"""
PROGRAM = "vitrail-call -t @adminvm hold </dev/null & exec sleep 601"
RECORD = shown_record(
    'kind = "bwrap"',
    f'command = ["/bin/sh", "-c", "{PROGRAM}"]',
    'bind_read_only = ["{home}/only"]',
    'bind_read_write = ["{home}/write"]',
    colour="blue",
    tables=(
        '[folders]\nread_only = ["{home}/docs"]\n'
        '[[mounts]]\nkind = "directory"\nat = "/srv/kept"\nsource = "{home}/kept"\nwrite = true\n'
    ),
)
SERVICE = """\
command = ["/bin/sh", "-c", "sleep 602"]
read = ["{home}/service"]
write = ["{home}/served"]
"""


def process_of(argv):
    """The pid of the process with this command line; None if it does not run."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cmdline").read_bytes() == argv:
                return int(entry.name)
    return None


async def everything_shared():
    async with world(image=False, start=False) as w:
        home = w.base / "home"
        for name in NAMES:
            (home / name / "vault").mkdir(parents=True)
        w.environ["HOME"] = str(home)
        w.write_record("work", RECORD.replace("{home}", str(home)))
        w.write_rules(RULES)
        folder = w.paths.config[0] / "services.d"
        folder.mkdir(parents=True)
        (folder / "hold.toml").write_text(SERVICE.replace("{home}", str(home)))
        await w.start()
        async with running("run", "-q", "work", env=w.environ):
            box = await eventually(lambda: process_of(b"sleep\000601\0"), deadline=60)
            service = await eventually(
                lambda: process_of(b"sleep\000602\0"), deadline=60
            )
            await w.said("share", str(home / "live"), "work")
            await w.said("share", "--write", str(home / "live-write"), "work")
            paths = {
                "only": (box, home / "only"),
                "write": (box, home / "write"),
                "kept": (box, "/srv/kept"),
                **{n: (box, f"/folders/{n}") for n in ("docs", "live", "live-write")},
                **{n: (service, home / n) for n in ("service", "served")},
            }
            assert paths.keys() == set(NAMES)
            for name, (pid, path) in paths.items():
                there = Path(f"/proc/{pid}/root") / str(path).lstrip("/")
                await eventually((there / "vault").is_dir)
                for target in (home / name / "vault", home / name):
                    mount_memory(target)
                    assert not namespaces_with_later_mounts(), name
                    opened = os.open(there / "vault", os.O_RDONLY)
                    assert os.listdir(opened) == []
                    unmount(target)  # not busy
                    os.close(opened)


def test_later_mount_absent_in_all_that_a_broker_starts():
    run_in_shared_mounts(partial(trio.run, everything_shared))
