"""Attack by a record: a sandbox that may write to Vitrail's own files, or to programs.

Whoever writes a record may not see that ``~/.config`` contains the rules, or that another
box has its programs below a directory.
"""

from __future__ import annotations

import pytest

from tests.kit.brokerctl import brokerctl
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.records import shown_record
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, requires("bwrap")]


def record(*lines):
    return shown_record('kind = "bwrap"', 'command = ["true"]', *lines)


async def checked(w):
    """The problems that ``policy check`` prints, which must be some."""
    answer = await brokerctl("policy", "check", env=w.environ)
    assert answer.code == 1, answer
    return answer.out + answer.err


@pytest.mark.parametrize("key", ["bind_read_only", "bind_read_write"])
async def test_bind_of_vitrails_directories_refused(key):
    async with world(image=False) as w:
        (w.base / "docs").mkdir()
        private = (w.paths.config[0], w.paths.state, w.paths.cache, w.paths.runtime)
        for path in (w.base, *private, w.paths.config[0] / "policy.d"):
            w.write_record("work", record(f'{key} = ["{path}"]'))
            # "--json" goes past the start in haste.
            for argv in (("run", "-q", "work"), ("run", "--json", "work")):
                text = await w.said(*argv, code=1)
                assert f"cannot bind {path}" in text
            text = await checked(w)
            assert f"cannot bind {path}: it contains, or is inside" in text
        w.write_record("work", record(f'{key} = ["{w.base}/docs"]'))
        await w.said("run", "-q", "work")
        await w.said("policy", "check")


async def test_bind_of_another_boxs_programs_refused():
    async with world(image=False) as w:
        tree = w.base / "trees/debian"
        for name in ("usr/bin", "srv"):
            (tree / name).mkdir(parents=True)
        w.write_record("old", record(f'rootfs = "{tree}"'))
        for path in (w.base / "trees", tree, tree / "usr/bin"):
            w.write_record("work", record(f'bind_read_write = ["{path}"]'))
            for argv in (("run", "-q", "work"), ("run", "--json", "work")):
                text = await w.said(*argv, code=1)
                assert f"cannot let the sandbox write to {path}" in text
                assert "the record 'old' has its programs" in text
            text = await checked(w)
            assert f"cannot let the sandbox write to {path}" in text
        w.write_record("work", record(f'bind_read_only = ["{tree}"]'))
        await w.said("run", "-q", "work")


@pytest.mark.parametrize("key", ["bind_read_only", "bind_read_write"])
async def test_bind_in_hidden_directory_warned(key):
    """Also by the user's link; the box starts, as programs keep their files there."""
    async with world(image=False) as w:
        w.environ["HOME"] = str(w.base)
        (w.base / ".mozilla/firefox").mkdir(parents=True)
        (w.base / "docs").mkdir()
        (w.base / "profile").symlink_to(".mozilla/firefox")
        for name in (".mozilla/firefox", "profile"):
            w.write_record("work", record(f'{key} = ["{w.base}/{name}"]'))
            answer = await brokerctl("policy", "check", env=w.environ)
            assert answer.code == 0, answer
            text = " ".join((answer.out + answer.err).split())
            assert f"{w.base}/{name}: hidden directories of your home" in text
            assert "[hidden-bind]" in text
            assert "warnings: 1" in text
        w.write_record("work", record(f'{key} = ["{w.base}/docs"]'))
        answer = await brokerctl("policy", "check", env=w.environ)
        assert (answer.code, "hidden" in answer.out + answer.err) == (0, False), answer
