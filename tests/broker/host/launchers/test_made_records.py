"""Records that come with the preparation of a launch, and go with it."""

from __future__ import annotations

import json
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.cli.quick.made_record import record_text
from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.paths import find_paths
from broker.host.launchers.interface import read_state
from broker.host.launches import Launches
from policy.limits import FILE_BYTES
from policy.records.loader import load_records, search_path
from tests.kit.link.roles import SilentViewer, host_role
from tests.kit.wayland.compositor import short_directory

NAME = "box-0123af"
TEXT = record_text("untrusted", "bwrap")
FILLED = ("#" * 63 + "\n") * 1024
FILLED = FILLED[: FILE_BYTES - len(TEXT)]


class Stage:
    """The launches of a broker whose records are read from files."""

    def __init__(self, base):
        run = base / "run"
        run.mkdir(mode=0o700)
        self.paths = find_paths(
            {"XDG_RUNTIME_DIR": str(run), "HOME": str(base), "XDG_CONFIG_DIRS": "/none"}
        )
        self.paths.runtime.mkdir(mode=0o700)
        self.folder = self.paths.runtime / "sandboxes.d"
        self.config = self.paths.config[0] / "sandboxes.d"
        self.config.mkdir(parents=True, mode=0o700)
        self.base = base
        self.host = None
        self.launches = None
        self.lives = 0

    async def reload(self):
        await trio.lowlevel.checkpoint()
        self.found = load_records(search_path(self.paths.runtime, self.paths.config))

    @asynccontextmanager
    async def broker(self):
        self.lives += 1
        log = self.base / f"log-{self.lives}"
        log.mkdir()
        await self.reload()
        async with host_role(log, None, viewer=SilentViewer()) as host:
            self.launches = Launches(
                self.paths,
                host,
                host._log,
                records=lambda: self.found,
                reload=self.reload,
            )
            yield self.launches

    def made(self):
        return sorted(path.stem for path in self.folder.glob("*"))


@pytest.fixture
def stage():
    with short_directory() as base:
        yield Stage(base)


def prepared(launches, name=NAME, text=TEXT):
    return launches.prepare(name, None, ours=True, text=text)


@pytest.mark.parametrize("permitted", [True, False])
async def test_file_names_a_record_only_if_that_permits_it(stage, permitted):
    text = 'class = "disposable"\n[launch]\nkind = "podman"\n'
    text += "by_files = true\n" if permitted else ""
    (stage.config / "bank.toml").write_text(text)
    async with stage.broker() as launches:
        if permitted:
            await launches.prepare("bank", None, ours=False, by_file=True)
            return
        with pytest.raises(RefusedError, match="a file for Podman names the record"):
            await launches.prepare("bank", None, ours=False, by_file=True)
        assert (await launches.prepare("bank", None, ours=False)).record == "bank"


async def test_it_is_there_for_the_launch_and_gone_with_it(stage):
    async with stage.broker() as launches:
        state = await prepared(launches)
        assert stage.made() == [NAME]
        assert os.stat(state.made).st_mode & 0o777 == 0o600
        await launches.end(state.id)
        assert stage.made() == []
        assert not Path(state.directory).exists()


async def test_a_launch_that_is_not_bound_takes_it_along(stage):
    """Whoever prepared it was killed: no other run has to look for remains."""
    async with stage.broker() as launches:
        state = await prepared(launches)
        launches.expire(state.since + limits.LAUNCH_BIND_SECONDS + 1)
        assert stage.made() == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("work", TEXT),
        ("box-0123AF", TEXT),
        ("box-0123af-1", TEXT),
        (NAME, TEXT + FILLED + "#"),
        (NAME, "class = 7\n"),
        (NAME, TEXT.replace('"bwrap"', '"qemu"')),
    ],
)
async def test_what_is_no_record_of_a_launch_leaves_nothing(stage, name, text):
    async with stage.broker() as launches:
        with pytest.raises(RefusedError):
            await prepared(launches, name, text)
        assert stage.made() == []
        assert list((stage.paths.runtime / "launch").glob("*")) == []


async def test_a_record_of_the_user_is_not_replaced(stage):
    """A file in the runtime directory would win over it."""
    mine = stage.config / f"{NAME}.toml"
    mine.write_text(TEXT.replace('"untrusted"', '"mine"'))
    mine.chmod(0o600)
    async with stage.broker() as launches:
        with pytest.raises(RefusedError, match="the user has a record"):
            await prepared(launches)
        assert stage.made() == []


async def test_a_second_launch_of_one_name_takes_nothing_from_the_first(stage):
    async with stage.broker() as launches:
        await prepared(launches)
        os.utime(stage.folder / f"{NAME}.toml", (0, 0))
        with pytest.raises(RefusedError, match="already running"):
            await prepared(launches, text=TEXT.replace('"untrusted"', '"other"'))
        assert 'name = "untrusted"' in (stage.folder / f"{NAME}.toml").read_text()


async def test_two_launches_of_one_name_at_once(stage):
    """While the first one's record is read, nothing else shows that it is there."""
    refused = []

    async def prepare(launches):
        try:
            await prepared(launches)
        except RefusedError as error:
            refused.append(error.message)

    async with stage.broker() as launches, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(prepare, launches)
    assert len(refused) == 1
    assert "has just been prepared" in refused[0]
    assert stage.made() == [NAME]


async def test_what_an_earlier_launch_left_is_replaced(stage):
    async with stage.broker() as launches:
        state = await earlier(stage, launches)
        await launches.end(state.id)
        state = await prepared(launches, text=TEXT.replace('"untrusted"', '"other"'))
        assert 'name = "other"' in Path(state.made).read_text()


async def test_the_largest_record_fits(stage):
    async with stage.broker() as launches:
        await prepared(launches, text=TEXT + FILLED)
        assert stage.made() == [NAME]


async def test_the_next_broker_has_it_as_long_as_the_launch(stage):
    async with stage.broker() as launches:
        state = await prepared(launches)
    async with stage.broker() as launches:
        assert await launches.adopt() == []
        assert stage.made() == [NAME]
        await launches.end(state.id)
        assert stage.made() == []


# -- an earlier release, whose 'brokerctl run' wrote the file itself ---------------------


async def earlier(stage, launches):
    """Prepare a launch as the last release did; return its state."""
    stage.folder.mkdir(mode=0o700, exist_ok=True)
    file = stage.folder / f"{NAME}.toml"
    file.write_text(TEXT)
    file.chmod(0o600)
    state = await launches.prepare(NAME, None, ours=True)
    kept = Path(state.directory, "launch.json")
    values = json.loads(kept.read_bytes())
    del values["made"]  # it knew no such key
    kept.write_text(json.dumps(values))
    old = time.time() - 2 * limits.LAUNCH_BIND_SECONDS
    os.utime(file, (old, old))
    return state


async def test_a_box_of_the_last_release_is_taken_over_with_its_record(stage):
    async with stage.broker() as launches:
        state = await earlier(stage, launches)
    async with stage.broker() as launches:
        await launches.adopt()
        assert launches.warnings == []
        assert read_state(Path(state.directory)).made == ""
        assert stage.made() == [NAME]
        await launches.end(state.id)
        assert stage.made() == [NAME]  # its own run, which still lives, removes it


async def test_what_a_killed_run_of_the_last_release_left_is_removed(stage):
    async with stage.broker() as launches:
        state = await earlier(stage, launches)
        await launches.end(state.id)
    (stage.folder / "demo.toml").write_text(TEXT)
    os.utime(stage.folder / "demo.toml", (0, 0))
    async with stage.broker() as launches:
        await launches.adopt()
        assert stage.made() == ["demo"]


async def test_a_record_that_a_run_has_just_written_stays(stage):
    async with stage.broker() as launches:
        state = await earlier(stage, launches)
        await launches.end(state.id)
    os.utime(stage.folder / f"{NAME}.toml")
    async with stage.broker() as launches:
        await launches.adopt()
        assert stage.made() == [NAME]
