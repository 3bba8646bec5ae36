"""A lockdown: its denials and cuts, its exceptions, and that it stays."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from broker.authority.lockdown import STARTS, Lockdown, keep_lockdown, kept_lockdown
from broker.authority.permit import Request
from broker.core.errors import RefusedError, UpstreamError
from broker.ipc.control import api
from broker.ipc.control.methods import TABLE
from policy.records.device import DeviceFacts, Interface
from policy.rules.checks import SERVICES
from tests.kit.rulebook import WORK, rulebook

RULES = """\
vitrail.AudioInput     *  work  @adminvm  allow
vitrail.ClipboardPaste *  work  vault     allow
vitrail.Notification   *  work  @adminvm  allow
vitrail.Network        +a.test  work  @net  allow
vitrail.Device         *  work  @adminvm  allow
"""
RECORD = """\
class = "persistent"
launch.kind = "bwrap"
launch.network = "rules"
[audio]
playback = "allow"
microphone = "allow"
"""
CAMERA = DeviceFacts(interfaces=(Interface(0x0E, 1, 0),))
PHONE = DeviceFacts(interfaces=(Interface(0x06, 1, 1), Interface(0xFF, 0x42, 1)))
DISK = DeviceFacts(interfaces=(Interface(0x08, 6, 0x50),))


@dataclass
class Stand:
    book: object
    lockdown: Lockdown

    async def change(self, change=None, *, networks=None):
        begin = {None: None, "begin": True, "lift": False}[change]
        request = api.LockdownRequest(begin=begin, networks=networks)
        return await self.lockdown.change(None, request)

    async def held(self, request, nursery):
        """Hold a permit; returns what tells why it ended."""
        ended = []

        async def hold(task_status):
            try:
                async with self.book.decider.permit(request):
                    task_status.started()
                    await trio.sleep_forever()
            except RefusedError as error:
                ended.append(error)

        await nursery.start(hold)
        return ended


@asynccontextmanager
async def stand():
    async with rulebook(RULES, work=RECORD) as book:
        lockdown = Lockdown(book.path / "x", book.log, book.decider.cut_denied)
        book.decider._judge._locked = lockdown.denies
        made = Stand(book, lockdown)
        with trio.fail_after(60):
            yield made


def request(service, target="@adminvm", **more):
    return Request(lease=WORK, service=service, target=target, **more)


MICROPHONE = request("vitrail.AudioInput", counts_bytes=False)
PASTE = request("vitrail.ClipboardPaste", "vault")
SHOWN = request("vitrail.Notification", counts_bytes=False)


async def test_what_it_denies_ends_at_once_and_stays_denied_until_it_is_lifted():
    async with stand() as it, trio.open_nursery() as nursery:
        heard = await it.held(MICROPHONE, nursery)
        pasted = await it.held(PASTE, nursery)
        shown = await it.held(SHOWN, nursery)
        answer = await it.change("begin")
        assert (answer.locked, answer.networks, answer.unkept) == (True, False, "")
        await trio.testing.wait_all_tasks_blocked()
        assert "lockdown" in str(heard[0])
        assert "lockdown" in str(pasted[0])
        assert heard[0].where == "lockdown"
        assert not shown
        with pytest.raises(RefusedError, match="lockdown"):
            async with it.book.decider.permit(MICROPHONE):
                pass
        # A rule that comes meanwhile changes nothing.
        await it.book.change("60-more.policy", "vitrail.FileCopy * work vault allow\n")
        with pytest.raises(RefusedError, match="lockdown"):
            async with it.book.decider.permit(request("vitrail.FileCopy", "vault")):
                pass
        assert not (await it.change("lift")).locked
        async with it.book.decider.permit(MICROPHONE):
            pass
        nursery.cancel_scope.cancel()
        changes = [e["locked"] for e in it.book.events("lockdown.changed")]
        assert changes == [True, False]


async def test_networks_end_where_the_user_says_so():
    flow = request(
        "vitrail.Network",
        "@net",
        argument="+a.test",
        protocol="tcp",
        port=443,
        counts_bytes=False,
    )
    async with stand() as it, trio.open_nursery() as nursery:
        ended = await it.held(flow, nursery)
        await it.change("begin")
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        assert (await it.change("begin", networks=True)).networks
        await trio.testing.wait_all_tasks_blocked()
        assert "lockdown" in str(ended[0])
        # A narrower one does not open them again.
        assert (await it.change("begin")).networks
        nursery.cancel_scope.cancel()


async def test_no_device_is_attached_and_a_disk_stays():
    disk = request("vitrail.Device", device=DISK)
    async with stand() as it, trio.open_nursery() as nursery:
        ended = await it.held(disk, nursery)
        await it.change("begin")
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        with pytest.raises(RefusedError, match="lockdown"):
            async with it.book.decider.permit(disk):
                pass
        nursery.cancel_scope.cancel()


def test_only_what_is_listed_is_left(tmp_path):
    lockdown = Lockdown(tmp_path / "x", None, None)
    assert not any(lockdown.denies(request(service)) for service in SERVICES)
    lockdown.networks = False
    left = {service for service in SERVICES if not lockdown.denies(request(service))}
    assert left == {
        "vitrail.Agent",
        "vitrail.Audio",
        "vitrail.AudioOutput",
        "vitrail.Device",
        "vitrail.Display",
        "vitrail.Network",
        "vitrail.Notification",
        "vitrail.SecurityKey",
        "vitrail.Settings",
    }
    # A service of somebody's, or one that a later version has.
    assert lockdown.denies(request("qubes.Gpg"))
    assert lockdown.denies(request("vitrail.Camera"))
    assert lockdown.denies(request("vitrail.Audio", raw=True))
    assert lockdown.denies(request("vitrail.Device", device=CAMERA))
    assert lockdown.denies(request("vitrail.Device", device=PHONE))
    assert not lockdown.denies(request("vitrail.Device", device=DISK))
    lockdown.networks = True
    assert lockdown.denies(request("vitrail.Network"))


def test_methods_that_start_something_are_refused(tmp_path):
    lockdown = Lockdown(tmp_path / "x", None, None)
    assert set(TABLE) > STARTS
    for name in TABLE:
        lockdown.refuse(name)
    lockdown.networks = False
    for name in set(TABLE) - STARTS:
        lockdown.refuse(name)
    for name in STARTS:
        with pytest.raises(RefusedError, match="starting is denied"):
            lockdown.refuse(name)


async def test_networks_are_cut_before_it_is_recorded_and_restored_at_its_end():
    async with stand() as it:
        calls = []

        async def cut_networks(*, cut):
            await trio.lowlevel.checkpoint()
            calls.append((cut, len(it.book.events("lockdown.changed"))))
            return ["domain"] if cut else []

        it.lockdown.cut_networks = cut_networks
        answer = await it.change("begin")
        assert (calls, answer.open_networks) == ([], [])
        answer = await it.change("begin", networks=True)
        assert (calls, answer.open_networks) == ([(True, 1)], ["domain"])
        # What it shows later is the state then: sandboxes come and go.
        await it.change()
        assert calls.pop() == (True, 2)
        answer = await it.change("lift")
        assert (calls[-1], answer.open_networks) == ((False, 3), [])


async def test_a_kept_lockdown_cuts_networks_of_an_earlier_broker(tmp_path):
    for networks in (True, False):
        keep_lockdown(tmp_path / "x", networks=networks)
        lockdown = Lockdown(tmp_path / "x", None, lambda: None)
        calls = []

        async def cut_networks(*, cut, calls=calls):
            await trio.lowlevel.checkpoint()
            calls.append(cut)
            return []

        lockdown.cut_networks = cut_networks
        await lockdown.take_kept()
        assert calls == [networks]


async def test_it_survives_a_restart():
    async with stand() as it:
        path = it.lockdown._path
        for networks in (False, True):
            await it.change("begin", networks=networks)
            again = Lockdown(path, None, None)
            assert again.networks is networks
            assert "LOCKDOWN" in again.warnings()[0]
        assert path.stat().st_mode & 0o777 == 0o600
        await it.change("lift")
        again = Lockdown(path, None, None)
        assert again.networks is None
        assert again.warnings() == []


@pytest.mark.parametrize("content", [b"", b"x", b"without networks", b"\xff"])
def test_a_file_that_is_not_ours_or_cannot_be_read_is_a_lockdown(tmp_path, content):
    path = tmp_path / "lockdown"
    path.write_bytes(content)
    assert kept_lockdown(path) is True
    path.unlink()
    path.mkdir()
    assert kept_lockdown(path) is True
    keep_lockdown(tmp_path / "state" / "x", networks=False)
    assert kept_lockdown(tmp_path / "state" / "x") is False


async def test_a_full_disk_does_not_keep_a_microphone_open(monkeypatch):
    async with stand() as it, trio.open_nursery() as nursery:
        heard = await it.held(MICROPHONE, nursery)

        def full(path, *, networks):
            raise OSError(28, "No space left on device")

        async def unrecorded(event):
            await trio.testing.wait_all_tasks_blocked()
            assert "lockdown" in str(heard[0]), "recorded before it was cut"

        monkeypatch.setattr("broker.authority.lockdown.keep_lockdown", full)
        monkeypatch.setattr(it.book.log, "note", unrecorded)
        answer = await it.change("begin")
        assert answer.locked
        assert "No space left on device" in answer.unkept
        assert "No space left" in it.lockdown.warnings()[0]
        nursery.cancel_scope.cancel()


async def test_it_is_not_lifted_without_its_event_or_for_this_start_only(monkeypatch):
    async with stand() as it:
        await it.change("begin")
        with monkeypatch.context() as patch:

            async def full(event):
                raise UpstreamError("the log takes no events")

            patch.setattr(it.book.log, "require", full)
            with pytest.raises(UpstreamError):
                await it.change("lift")
        assert it.lockdown.networks is not None
        path = it.lockdown._path
        path.unlink()
        path.mkdir()
        (path / "x").write_text("")
        with pytest.raises(RefusedError, match="stays"):
            await it.change("lift")
        assert it.lockdown.networks is not None
