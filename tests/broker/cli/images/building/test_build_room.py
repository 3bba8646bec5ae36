from __future__ import annotations

import errno
import fcntl
import os

import pytest
import trio

from broker.cli.images.building import build_room
from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths
from broker.helpers.process.spawn import has_ended, spawn
from tests.kit.needs import needs


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = Paths(tmp_path / "run", tmp_path / "state", tmp_path / "cache", ())
    made.images.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        UpstreamError("genext2fs failed with code 1: write: No space left on device"),
    ],
)
def test_full_disk_says_how_much_is_free_and_needed(paths, error):
    with (
        pytest.raises(SetupError) as caught,
        build_room.disk_full_explained(paths.images),
    ):
        raise error
    text = str(caught.value)
    assert "disk became full" in text
    assert f"MiB are free in {paths.images}" in text
    assert f"{limits.IMAGE_FREE_BYTES >> 20} MiB are needed" in text
    assert "TMPDIR" in caught.value.hint


def test_other_errors_pass(paths):
    with (
        pytest.raises(UpstreamError, match="another"),
        build_room.disk_full_explained(paths.images),
    ):
        raise UpstreamError("another")


def test_room_is_asked_for_before(paths, monkeypatch):
    free = build_room.shutil.disk_usage(paths.images).free
    monkeypatch.setattr(limits, "IMAGE_FREE_BYTES", free // 2)
    build_room.need_space(paths.images, "the image")
    monkeypatch.setattr(limits, "IMAGE_FREE_BYTES", free * 2)
    with pytest.raises(SetupError, match="not enough space for the image"):
        build_room.need_space(paths.images, "the image")


@needs("newuidmap", "uidmap")
async def test_leftovers_of_a_killed_build_are_removed(paths):
    scratch = build_room.make_scratch(paths, "default")
    (scratch / "deep").mkdir()
    (scratch / "deep/file").touch()
    (paths.images / ".default.abc").mkdir()
    (paths.images / ".default.now").mkdir()
    (paths.images / "default").symlink_to(".default.now")
    (paths.images / ".default.before").mkdir()
    (paths.images / ".default.previous").symlink_to(".default.before")
    (paths.images / ".other.abc").mkdir()
    await build_room.remove_leftovers(paths, "default")
    assert not scratch.exists()
    assert sorted(p.name for p in paths.images.iterdir()) == [
        ".default.before",
        ".default.now",
        ".default.previous",
        ".other.abc",
        "default",
    ]


@needs("newuidmap", "uidmap")
async def test_what_still_works_in_the_scratch_place_is_ended(paths):
    scratch = build_room.make_scratch(paths, "default")
    # The process that does the work does not have the name in its arguments.
    child = spawn(["sh", "-c", "sleep 1000; true", str(scratch)])
    other = spawn(["sh", "-c", "exec sleep 1000", "/another"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.wait)
        await build_room.remove_leftovers(paths, "default")
    assert child.returncode == -9
    assert not has_ended(other.pidfd)
    await other.stop()
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("state", "session", "words", "found"),
    [
        ("S", 7, b"sh\0/scratch\0", [7]),
        ("S", 7, b"sh\0/other\0", []),
        ("Z", 7, b"", []),
        ("S", 0, b"", []),  # a thread of the kernel's
        ("R", 7, b"", None),  # between two programs: which they are is not known yet
    ],
)
def test_who_works_there(tmp_path, state, session, words, found):
    one = tmp_path / "7"
    one.mkdir()
    (one / "cmdline").write_bytes(words)
    (one / "stat").write_text(f"7 (a) name) {state} 1 7 {session} 0 -1 0\n")
    assert build_room.users(b"/scratch", tmp_path) == found


async def test_note_that_names_another_place_removes_nothing(paths, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (paths.images / ".default.scratch").write_text(str(precious))
    await build_room.remove_leftovers(paths, "default")
    assert precious.exists()
    assert not (paths.images / ".default.scratch").exists()


async def test_second_build_waits_for_the_first(paths):
    said: list[str] = []
    lock = paths.images / ".default.lock"
    order: list[str] = []
    waits = trio.Event()

    def progress(text: str) -> None:
        said.append(text)
        waits.set()

    async def second() -> None:
        async with build_room.only_build(lock, progress):
            order.append("second")

    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            async with build_room.only_build(lock, progress):
                nursery.start_soon(second)
                await waits.wait()
                order.append("first")
    assert order == ["first", "second"]
    assert said == ["waiting for another build of this image"]


def test_lock_of_a_dead_process_is_free(paths):
    lock = paths.images / ".default.lock"
    child = os.fork()
    if child == 0:
        file = lock.open("a")
        fcntl.flock(file, fcntl.LOCK_EX)
        os._exit(0)
    os.waitpid(child, 0)

    async def take() -> None:
        with trio.fail_after(30):
            async with build_room.only_build(lock, lambda _text: None):
                pass

    trio.run(take)


async def test_missing_tools_are_named_with_their_packages(monkeypatch):
    monkeypatch.setattr(build_room, "which", lambda tool: None)
    with pytest.raises(
        SetupError, match=r"build an image: mmdebstrap, genext2fs"
    ) as caught:
        await build_room.check_machine()
    assert caught.value.hint.startswith("sudo apt install mmdebstrap")
