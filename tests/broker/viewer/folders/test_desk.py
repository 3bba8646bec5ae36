"""Which sandbox has which folder: by rule, by the person, and until when."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import transfer as limits
from broker.viewer.folders import desk as folder_desk
from broker.viewer.folders.desk import FolderDesk
from broker.wire.faults import HeldError
from policy.records.model import Folders
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, no, rulebook, yes
from tests.kit.session import starter_of_orders
from tests.kit.threads import no_threads

RULE = "vitrail.Folder * work @adminvm "


class Lost:
    """A folder's server; ``over`` ends it."""

    def __init__(self):
        self.over = trio.Event()

    async def wait_lost(self):
        await self.over.wait()
        raise UpstreamError("the process that serves it has ended")


class Inside:
    """A micro VM's guest, that obeys unless ``refusal`` is set; ``said`` has all."""

    def __init__(self):
        self.said = []
        self.warnings = []
        self.warn = self.warnings.append
        self.refusal = None

    async def mount(self, message):
        await trio.lowlevel.checkpoint()
        assert not message.stream
        self.said.append(("mount", message.place, message.name, message.write))
        if self.refusal is not None:
            raise self.refusal

    async def unmount(self, place):
        await trio.lowlevel.checkpoint()
        self.said.append(("unmount", place))
        if self.refusal is not None:
            raise self.refusal

    async def revoke(self, place):
        await trio.lowlevel.checkpoint()
        self.said.append(("revoke", place))


class Source:
    """Simulated sandboxes: ``inside`` has the mounts."""

    unavailable = ""

    def __init__(self):
        self.inside = {}
        self.ended = []
        self.fails = self.stays = None
        self.kept = False
        self.left = False
        self.place = None
        self.lost = Lost()

    @asynccontextmanager
    async def mounted(self, lease, folder, *, write):
        await trio.lowlevel.checkpoint()
        if self.fails is not None:
            raise self.fails
        self.inside[folder.name] = write
        mount = SimpleNamespace(
            path=f"/folders/{folder.name}",
            kept=False,
            place=self.place,
            lost=self.lost.wait_lost,
            release=trio.lowlevel.checkpoint,
        )
        try:
            yield mount
        finally:
            del self.inside[folder.name]
            mount.kept = self.kept

    async def end_sandbox(self, lease, reason):
        await trio.lowlevel.checkpoint()
        self.ended.append((lease.sandbox, reason))
        if self.stays is not None:
            raise self.stays

    async def forget(self, lease):
        await trio.lowlevel.checkpoint()
        return self.left


@asynccontextmanager
async def desk(rules, tmp_path, folders=None, inside=None):
    for number in range(limits.FOLDERS_PER_SANDBOX + 1):
        (tmp_path / f"home/f{number}").mkdir(parents=True)
    wanted = folders or Folders()
    record = SimpleNamespace(name="work", viewer=SimpleNamespace(folders=wanted))
    config = tmp_path / "config/vitrail/sandboxes.d"
    config.mkdir(parents=True)
    (config / "work.toml").write_text(
        'class = "persistent"\ndisplay = "none"\n[launch]\nkind = "bwrap"\n'
        '[label]\ncolour = "blue"\n[folders]\n'
        f"read_only = {[*map(str, wanted.read_only)]}\n"
        f"read_write = {[*map(str, wanted.read_write)]}\n"
    )
    environ = dict(os.environ, HOME=str(tmp_path / "home"))
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "config")
    environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    with starter_of_orders(environ) as session:
        async with rulebook(rules) as b, trio.open_nursery() as nursery:
            source = Source()
            made = FolderDesk(
                source=source,
                decider=b.decider,
                log=b.log,
                leases=lambda: b.leases,
                record=lambda lease: record,
                inside=lambda lease: inside,
                session=session,
            )
            await nursery.start(made.run)
            with trio.fail_after(60):
                yield b, source, made
            nursery.cancel_scope.cancel()


async def test_no_rule_is_a_no(tmp_path):
    async with desk("", tmp_path) as (_, source, made):
        with pytest.raises(RefusedError):
            await made.share(
                str(tmp_path / "home/f0"), "work", write=False, warrant=b""
            )
        assert source.inside == {}
        assert made.shared() == []


async def test_user_is_not_asked_about_a_folder_that_no_sandbox_can_take(tmp_path):
    home = tmp_path / "home"
    wanted = Folders(read_only=(home / "f0",))
    async with desk(f"{RULE}ask\n", tmp_path, wanted) as (b, source, made):
        source.unavailable = "sandboxes are on another machine"
        with pytest.raises(RefusedError, match="on another machine"):
            await made.share(str(home / "f0"), "work", write=False, warrant=b"")
        await made.lease_begun(WORK)
        assert b.person.asked == []
        assert source.inside == {}


async def test_a_record_s_folder_for_which_there_is_no_thread_ends_nothing(tmp_path):

    wanted = Folders(read_only=(tmp_path / "home/f0",))
    async with desk(f"{RULE}allow\n", tmp_path, wanted) as (_, source, made):
        with no_threads():
            await made.lease_begun(WORK)
        assert source.inside == {}
        await made.share(str(tmp_path / "home/f1"), "work", write=False, warrant=b"")
        assert source.inside == {"f1": False}


async def test_the_person_is_asked_with_folder_and_way(tmp_path):
    async with desk(f"{RULE}ask write=yes\n", tmp_path) as (b, source, made):
        b.person.says = no
        with pytest.raises(RefusedError, match="said no"):
            await made.share(str(tmp_path / "home/f0"), "work", write=True, warrant=b"")
        b.person.says = yes()
        await made.share(str(tmp_path / "home/f0"), "work", write=True, warrant=b"")
        assert source.inside == {"f0": True}
        question = b.person.asked[-1]
        # A long path is cut in its middle: its end names the folder.
        assert str(tmp_path)[:20] in str(question)
        assert "/home/f0" in str(question)
        assert "read and change" in str(question)


async def test_a_rule_without_write_yes_lets_read_only(tmp_path):
    async with desk(f"{RULE}allow\n", tmp_path) as (_, source, made):
        with pytest.raises(RefusedError, match="write=yes"):
            await made.share(str(tmp_path / "home/f0"), "work", write=True, warrant=b"")
        await made.share(str(tmp_path / "home/f0"), "work", write=False, warrant=b"")
        assert source.inside == {"f0": False}


async def test_a_writable_folder_ends_when_its_rule_lets_read_only(tmp_path):
    async with desk(f"{RULE}allow write=yes\n", tmp_path) as (b, source, made):
        await made.share(str(tmp_path / "home/f0"), "work", write=True, warrant=b"")
        await made.share(str(tmp_path / "home/f1"), "work", write=False, warrant=b"")
        await b.change("50-test.policy", f"{RULE}allow\n")
        await eventually(lambda: source.inside == {"f1": False}, deadline=5)
        assert b.decisions()[-1] == ("deny", "cut", "50-test.policy:1")


async def test_a_folder_ends_with_its_sandbox(tmp_path):
    async with desk(f"{RULE}allow\n", tmp_path) as (_, source, made):
        await made.share(str(tmp_path / "home/f0"), "work", write=False, warrant=b"")
        with trio.fail_after(10):
            await made.lease_ended(WORK.id)
        assert source.inside == {}
        assert source.ended == []


async def test_a_sandbox_that_keeps_a_folder_is_ended(tmp_path):
    async with desk(f"{RULE}allow\n", tmp_path) as (b, source, made):
        shared = await made.share(
            str(tmp_path / "home/f0"), "work", write=False, warrant=b""
        )
        source.kept = True
        b.write("30-mine.policy", "")
        await made.unshare("f0", "work", force=True)
        await trio.testing.wait_all_tasks_blocked()
        assert source.ended == [
            ("work", "the sandbox kept files of the folder f0 open")
        ]
        assert shared.reason == "removed on request"


async def test_a_sandbox_that_cannot_be_ended_ends_no_other_folder(tmp_path, capfd):
    """The desk is one task of the viewer, and the viewer's end is the broker's."""
    async with desk(f"{RULE}allow\n", tmp_path) as (_, source, made):
        await made.share(str(tmp_path / "home/f0"), "work", write=False, warrant=b"")
        await made.share(str(tmp_path / "home/f1"), "work", write=False, warrant=b"")
        source.kept, source.stays = True, UpstreamError("the host cannot stop it")
        await made.unshare("f0", "work", force=True)
        await trio.testing.wait_all_tasks_blocked()
        assert source.inside == {"f1": False}
        source.kept = False
    assert "the host cannot stop it" in capfd.readouterr().err


async def test_a_sandbox_that_keeps_a_failed_mount_is_ended(tmp_path):
    async with desk(f"{RULE}allow\n", tmp_path) as (_, source, made):
        source.fails = HeldError("a program has files of it open")
        with pytest.raises(HeldError):
            await made.share(
                str(tmp_path / "home/f0"), "work", write=False, warrant=b""
            )
        await trio.testing.wait_all_tasks_blocked()
        assert source.ended == [
            ("work", "the sandbox kept files of the folder f0 open")
        ]


async def test_a_sandbox_that_keeps_a_folder_over_a_crash_is_ended(tmp_path):
    folders = Folders((tmp_path / "home/f0",), ())
    async with desk(f"{RULE}allow\n", tmp_path, folders) as (_, source, made):
        source.left = True
        await made.lease_begun(WORK)
        await trio.testing.wait_all_tasks_blocked()
        ((sandbox, reason),) = source.ended
        assert sandbox == "work"
        assert "earlier broker" in reason
        assert source.inside == {}


async def test_a_record_s_folder_that_fails_does_not_end_the_broker(tmp_path):
    folders = Folders((tmp_path / "home/f0",), ())
    async with desk(f"{RULE}allow\n", tmp_path, folders) as (b, source, made):
        source.fails = OSError(28, "No space left on device")
        await made.lease_begun(WORK)
        ((_, text),) = b.told
        assert "No space left" in text


async def test_a_failed_mount_leaves_nothing(tmp_path):
    async with desk(f"{RULE}allow\n", tmp_path) as (_, source, made):
        source.fails = UpstreamError("no namespaces here")
        with pytest.raises(UpstreamError, match="no namespaces"):
            await made.share(
                str(tmp_path / "home/f0"), "work", write=False, warrant=b""
            )
        source.fails = None
        await made.share(str(tmp_path / "home/f0"), "work", write=False, warrant=b"")


async def test_folders_of_a_sandbox_are_limited(tmp_path):
    async with desk(f"{RULE}allow\n", tmp_path) as (_, source, made):
        for number in range(limits.FOLDERS_PER_SANDBOX):
            await made.share(
                str(tmp_path / f"home/f{number}"), "work", write=False, warrant=b""
            )
        with pytest.raises(RefusedError, match="already"):
            await made.share(
                str(tmp_path / "home/f0"), "work", write=False, warrant=b""
            )
        last = tmp_path / f"home/f{limits.FOLDERS_PER_SANDBOX}"
        with pytest.raises(RefusedError, match="shared folders"):
            await made.share(str(last), "work", write=False, warrant=b"")
        assert len(source.inside) == limits.FOLDERS_PER_SANDBOX


@pytest.mark.parametrize("first", [False, True])
async def test_folder_in_another_one_denied_unless_both_may_be_written(tmp_path, first):
    """The sandbox would change by the outer one what it may only read."""
    outer, inner = tmp_path / "home/f0", tmp_path / "home/f0/hooks"
    async with desk(f"{RULE}allow write=yes\n", tmp_path) as (_, source, folder_desk):
        inner.mkdir()
        (tmp_path / "home/link").symlink_to("f0/hooks")
        shares = [(outer, True), (tmp_path / "home/link", False)]
        (path, write), (path2, write2) = shares if first else reversed(shares)
        await folder_desk.share(str(path), "work", write=write, warrant=b"")
        with pytest.raises(RefusedError, match=r"work may only read .*, but could"):
            await folder_desk.share(str(path2), "work", write=write2, warrant=b"")
        assert len(source.inside) == 1


async def test_folders_in_each_other_shared_to_read(tmp_path):
    """And a folder to change in one that may only be read."""
    async with desk(f"{RULE}allow write=yes\n", tmp_path) as (_, source, folder_desk):
        (tmp_path / "home/f0/inner").mkdir()
        (tmp_path / "home/f0/drafts").mkdir()
        await folder_desk.share(
            str(tmp_path / "home/f0"), "work", write=False, warrant=b""
        )
        for name, write in (("inner", False), ("drafts", True)):
            path = tmp_path / "home/f0" / name
            await folder_desk.share(str(path), "work", write=write, warrant=b"")
        assert len(source.inside) == 3


async def test_folders_of_a_record_come_by_the_rules(tmp_path):
    home = tmp_path / "home"
    folders = Folders((home / "f0", home / "absent"), (home / "f1",))
    async with desk(f"{RULE}allow\n", tmp_path, folders) as (b, source, made):
        await made.lease_begun(WORK)
        assert source.inside == {"f0": False}
        titles = sorted(title.split()[3].rpartition("/")[2] for title, _ in b.told)
        assert titles == ["absent", "f1"]


async def test_a_micro_vm_mounts_it_and_unmounts_it_first(tmp_path):
    inside = Inside()
    async with desk(f"{RULE}allow\n", tmp_path, inside=inside) as (_, source, made):
        source.place = 3
        await made.share(str(tmp_path / "home/f0"), "work", write=False, warrant=b"")
        assert inside.said == [("mount", 3, "f0", False)]
        inside.refusal = RefusedError("busy")
        with pytest.raises(RefusedError, match="busy"):
            await made.unshare("f0", "work", force=False)
        assert source.inside == {"f0": False}
        await made.unshare("f0", "work", force=True)
        assert inside.said[1:] == [("unmount", 3), ("revoke", 3)]
        assert source.inside == {}
        assert source.ended == []


async def test_a_guest_that_cannot_mount_it_has_no_folder(tmp_path):
    inside = Inside()
    inside.refusal = UpstreamError("no such device")
    async with desk(f"{RULE}allow\n", tmp_path, inside=inside) as (_, source, made):
        source.place = 0
        with pytest.raises(UpstreamError, match="no such device"):
            await made.share(
                str(tmp_path / "home/f0"), "work", write=False, warrant=b""
            )
        assert source.inside == {}
        assert made.shared() == []


async def test_a_folder_whose_server_ends_is_over(tmp_path):
    inside = Inside()
    async with desk(f"{RULE}allow\n", tmp_path, inside=inside) as (_, source, made):
        source.place = 0
        shared = await made.share(
            str(tmp_path / "home/f0"), "work", write=False, warrant=b""
        )
        source.lost.over.set()
        with trio.fail_after(10):
            await shared.over.wait()
        assert made.shared() == []
        assert inside.said[-1] == ("revoke", 0)
        assert "has ended" in shared.reason


@pytest.mark.parametrize("ending", [False, True])
async def test_loss_of_a_folder_is_reported_unless_its_sandbox_ends(
    tmp_path, monkeypatch, ending
):
    monkeypatch.setattr(folder_desk, "_ENDING_SECONDS", 0.01)
    inside = Inside()
    async with desk(f"{RULE}allow\n", tmp_path, inside=inside) as (b, source, shares):
        source.place = 0
        shared = await shares.share(
            str(tmp_path / "home/f0"), "work", write=False, warrant=b""
        )
        if ending:
            b.leases.remove(WORK)
        source.lost.over.set()
        await shared.over.wait()
        if ending:
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert (b.told, inside.warnings) == ([], [])
            return
        await eventually(lambda: b.told)
        ((title, text),) = b.told
        assert title == "Vitrail: work lost a shared folder"
        assert "the folder f0 is no longer shared: the process that serves" in text
        assert inside.warnings == [text]


async def test_no_loss_is_reported_of_a_folder_that_is_taken_back(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(folder_desk, "_ENDING_SECONDS", 0)
    inside = Inside()
    async with desk(f"{RULE}allow\n", tmp_path, inside=inside) as (b, source, shares):
        await shares.share(str(tmp_path / "home/f0"), "work", write=False, warrant=b"")
        await shares.unshare("f0", "work", force=True)
        await shares.share(str(tmp_path / "home/f1"), "work", write=False, warrant=b"")
        await b.change("50-test.policy", "")
        await eventually(lambda: source.inside == {})
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not [title for title, _ in b.told if "lost" in title]
        assert inside.warnings == []
