"""Which sandbox gets a device: by rule, by the person, and until when."""

from __future__ import annotations

import dataclasses
import errno
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.ipc.devices.messages import Devices
from broker.ipc.devices.table import DeviceTable, item_of
from broker.ipc.host_viewer import DeviceAttachment
from broker.viewer.devices.desk import DeviceDesk
from tests.kit.rulebook import VAULT, WORK, no, rulebook, yes
from tests.kit.usb.samples import KEYBOARD, STICK, device

_TO_WORK = "vitrail.Device * work @adminvm "
_STORAGE = "with-interface=match-all{08:*:*}"


class Source:
    """The host's devices, as a test plugs them in."""

    elsewhere = ""

    def __init__(self):
        self.table = DeviceTable()
        self.changed = trio.Event()
        self.leaves = ["*"]
        self.attached_to = []
        self.open = {}
        self.fails = self.ends_with = None
        self.more = trio.Event()

    def tell(self):
        self.changed.set()
        self.changed = trio.Event()
        self.more.set()
        self.more = trio.Event()

    def plug(self, *interfaces, **more):
        now = trio.current_time()
        self.table.seen(device(*interfaces, **more), now)
        self.tell()
        return self.table.plugs()[-1]

    def unplug(self, port="2-1"):
        self.table.removed(port)
        self.tell()

    async def devices(self):
        if self.fails is not None:
            raise self.fails
        items = [item_of(plug, self.leaves) for plug in self.table.plugs()]
        return Devices(0, items, False, "udev", [])

    @asynccontextmanager
    async def attached(self, number, lease):
        await trio.lowlevel.checkpoint()
        plug = self.table.begin(number, lease.id)
        self.table.attached(plug)
        self.attached_to.append((plug.device.port, lease.sandbox))
        attachment = self.open[plug.device.port] = DeviceAttachment(
            plug.attachment, "usbip"
        )
        self.tell()
        try:
            yield attachment
        finally:
            del self.open[plug.device.port]
            self.table.ended(plug)
            self.tell()
            if self.ends_with is not None:
                raise self.ends_with


@asynccontextmanager
async def desk(rules, **more):
    async with rulebook(rules) as b, trio.open_nursery() as nursery:
        source = Source()
        made = DeviceDesk(
            source=source,
            decider=b.decider,
            log=b.log,
            leases=lambda: b.leases,
            **more,
        )
        await nursery.start(made.run)
        yield b, source, made
        nursery.cancel_scope.cancel()


async def until(source, holds):
    with trio.fail_after(5):
        while not holds():
            with trio.move_on_after(0.05):
                await source.more.wait()
    await quiet()


async def quiet():
    """Everything that is under way has had its turn."""
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_device_is_attached_by_rule_and_recorded():
    async with desk(f"{_TO_WORK}allow {_STORAGE} attach=auto\n") as (b, source, made):
        source.plug()
        await until(source, lambda: source.attached_to)
        assert source.attached_to == [("2-1", "work")]
        await until(source, made.holdings)
        (event,) = b.events("device.attached")
        assert event["device"] == "usb 0951:1666"
        assert event["detail"]["port"] == "2-1"
        (decision,) = b.events("decision")
        assert decision["verdict"] == "allow"
        assert decision["detail"]["device-interfaces"] == ["08:06:50"]
        source.unplug()
        await until(source, lambda: not made.holdings())
        (event,) = b.events("device.detached")
        assert event["reason"] == "unplugged"


async def test_an_internal_error_as_a_device_ends_ends_no_other(capfd):
    """The desk is one task of the viewer, and the viewer's end is the broker's."""
    async with desk(f"{_TO_WORK}allow {_STORAGE} attach=auto\n") as (_, source, made):
        source.plug()
        await until(source, made.holdings)
        short = OSError(errno.EMFILE, "Too many open files")
        source.ends_with = ExceptionGroup("of a nursery", [short])
        source.unplug()
        await until(source, lambda: not made.holdings())
        source.ends_with = None
        source.plug()
        await until(source, made.holdings)
    assert "Too many open files" in capfd.readouterr().err


async def test_a_reason_of_a_nursery_is_no_internal_error(capfd):
    """A nursery whose scope is cancelled at the same time has the reason in a group."""
    async with desk(f"{_TO_WORK}allow {_STORAGE} attach=auto\n") as (_, source, made):
        source.plug()
        await until(source, made.holdings)
        gone = UpstreamError("virtiofsd has ended")
        source.ends_with = ExceptionGroup("of a nursery", [gone])
        source.unplug()
        await until(source, lambda: not made.holdings())
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "rule",
    [
        f"{_TO_WORK}allow {_STORAGE}\n",
        f"{_TO_WORK}allow {_STORAGE} attach=manual\n",
        f"{_TO_WORK}deny\n",
        "",
    ],
)
async def test_device_stays_where_no_rule_attaches_it(rule):
    async with desk(rule) as (_, source, _made):
        source.plug()
        await quiet()
        assert source.attached_to == []


@pytest.mark.parametrize("kinds", [[KEYBOARD], [STICK, KEYBOARD], [(3, 0, 0)]])
async def test_keyboard_is_never_attached_by_a_rule_that_does_not_name_it(kinds):
    rule = f"{_TO_WORK}allow id=0951:1666 attach=auto\n"
    async with desk(rule) as (_, source, made):
        source.plug(*kinds)
        await quiet()
        assert source.attached_to == []
        with pytest.raises(RefusedError, match="denied"):
            await made.attach("2-1", "work")


async def test_person_is_asked_and_a_no_leaves_the_device():
    async with desk(f"{_TO_WORK}ask {_STORAGE}\n") as (b, source, made):
        b.person.says = no
        source.plug(manufacturer="SanDisk", product="Ultra")
        await until(source, lambda: b.person.asked)
        (question,) = b.person.asked
        assert question.words == "to use the USB device 0951:1666"
        assert ("device, it says", "SanDisk Ultra (storage)") in question.details
        await quiet()
        assert source.attached_to == []
        b.person.says = yes()
        await made.attach("2-1", "work")
        assert source.attached_to == [("2-1", "work")]


async def test_answer_is_never_remembered_for_the_next_device_in_the_port():
    async with desk(f"{_TO_WORK}ask {_STORAGE} remember=session\n") as (
        b,
        source,
        made,
    ):
        b.person.says = yes()
        source.plug(serial="A")
        await until(source, made.holdings)
        assert [len(q.keeps) for q in b.person.asked] == [1]
        source.unplug()
        await until(source, lambda: not made.holdings())
        b.person.says = no
        source.plug(serial="B", number=6)
        await until(source, lambda: len(b.person.asked) == 2)


async def test_swap_while_the_person_is_asked_attaches_nothing():
    async with desk(f"{_TO_WORK}ask {_STORAGE}\n") as (b, source, made):
        answered = trio.Event()

        async def later(question):
            await answered.wait()
            return yes()(question)

        b.person.says = later
        source.plug(serial="A")
        await b.person.wait_asked(1)
        b.person.says = no
        source.plug(serial="B", number=6)
        answered.set()
        await quiet()
        assert source.attached_to == []
        assert made.holdings() == []


async def test_revoked_rule_takes_the_device_back():
    async with desk(f"{_TO_WORK}allow {_STORAGE} attach=auto\n") as (b, source, made):
        source.plug()
        await until(source, made.holdings)
        await b.change("50-test.policy", f"{_TO_WORK}deny\n")
        await until(source, lambda: not source.open)
        (event,) = b.events("device.detached")
        assert event["outcome"] == "detached"


async def test_device_that_changes_its_descriptors_is_taken_back():
    async with desk(f"{_TO_WORK}allow {_STORAGE} attach=auto\n") as (_, source, made):
        source.plug()
        await until(source, made.holdings)
        source.plug(STICK, KEYBOARD)
        await until(source, lambda: not source.open)
        await quiet()
        assert source.attached_to == [("2-1", "work")]


_TO_ANY = "vitrail.Device * @anyvm @adminvm "


@pytest.mark.parametrize("action", ["allow", "ask"])
async def test_two_sandboxes_that_want_one_device_are_one_question(action):
    attach = " attach=auto" if action == "allow" else ""
    async with desk(f"{_TO_ANY}{action} class=storage{attach}\n") as (b, source, made):
        answer = trio.Event()

        async def says(question):
            await answer.wait()
            return yes(target="vault")(question)

        b.person.says = says
        source.plug(manufacturer="SanDisk", product="Ultra")
        await until(source, lambda: b.person.asked)
        (question,) = b.person.asked
        assert question.targets == ("work", "vault")
        assert question.default_target == ""
        assert question.words == "to attach the USB device 0951:1666"
        assert ("device, it says", "SanDisk Ultra (storage)") in question.details
        assert question.sandbox == "this computer"
        await quiet()
        assert source.attached_to == []
        answer.set()
        await until(source, made.holdings)
        assert source.attached_to == [("2-1", "vault")]
        assert len(b.person.asked) == 1
        (asked,) = b.events("question.asked")
        assert asked["detail"]["targets"] == ["work", "vault"]
        (answered,) = b.events("question.answered")
        assert (answered["answer"], answered["target"]) == ("allow", "vault")
        decision = b.events("decision")[-1]
        assert (decision["sandbox"], decision["verdict"]) == ("vault", "allow")
        with pytest.raises(RefusedError, match="already in use"):
            await made.attach("2-1", "work")


async def test_declined_device_stays_and_is_not_asked_about_again():
    async with desk(f"{_TO_ANY}ask class=storage\n") as (b, source, made):
        b.person.says = no
        source.plug()
        await until(source, lambda: b.person.asked)
        await quiet()
        assert source.attached_to == []
        made.look_again()
        await quiet()
        assert len(b.person.asked) == 1
        source.unplug()
        await quiet()
        source.plug()
        await until(source, lambda: len(b.person.asked) == 2)


async def test_device_declined_for_one_sandbox_is_not_asked_about_at_each_start():
    """Starts are a sandbox's to cause, and rules change: neither asks again."""
    async with desk(f"{_TO_WORK}ask class=storage\n") as (b, source, made):
        b.person.says = no
        source.plug()
        await until(source, lambda: b.person.asked)
        for _ in range(5):
            made.look_again()
            await quiet()
        # A disposable of the record has another name.
        again = dataclasses.replace(WORK, id="other", sandbox="work-2")
        b.leases.append(again)
        made.look_again()
        await quiet()
        assert len(b.person.asked) == 1
        assert source.attached_to == []
        source.unplug()
        await quiet()
        source.plug()
        await until(source, lambda: len(b.person.asked) > 1)


async def test_device_declined_for_two_is_not_asked_about_when_one_is_left():
    async with desk(f"{_TO_ANY}ask class=storage\n") as (b, source, made):
        b.person.says = no
        source.plug()
        await until(source, lambda: b.person.asked)
        del b.leases[1:]
        made.look_again()
        await quiet()
        assert len(b.person.asked) == 1


async def test_choice_that_was_not_offered_attaches_nothing():
    async with desk(f"{_TO_ANY}ask class=storage\n") as (b, source, _made):
        b.person.says = yes(target="other")
        source.plug()
        await until(source, lambda: b.person.asked)
        await quiet()
        assert source.attached_to == []


async def nothing_attached(b, source, says):
    """A device comes, the person is asked and says this; nothing comes of it."""
    b.person.says = says
    source.plug()
    await until(source, lambda: b.person.asked)
    await quiet()
    assert source.attached_to == []


async def test_chosen_sandbox_that_has_stopped_meanwhile_gets_nothing():
    async with desk(f"{_TO_ANY}ask class=storage\n") as (b, source, _made):

        def says(question):
            b.leases.remove(VAULT)
            return yes(target="vault")(question)

        await nothing_attached(b, source, says)


async def test_rules_that_changed_during_the_choice_are_obeyed():
    async with desk(f"{_TO_ANY}ask class=storage\n") as (b, source, _made):

        async def says(question):
            await b.change("50-test.policy", f"{_TO_ANY}deny\n")
            return yes(target="vault")(question)

        await nothing_attached(b, source, says)


@pytest.mark.parametrize("end", ["unplugged", "attached"])
async def test_question_about_a_device_is_withdrawn(end):
    async with desk(f"{_TO_ANY}allow class=storage attach=auto\n") as (b, source, made):
        source.plug()
        await until(source, lambda: b.person.asked)
        if end == "unplugged":
            source.unplug()
        else:
            await made.attach("2-1", "vault")
        await until(source, lambda: not b.person.open)
        await until(source, lambda: b.events("question.answered"))
        (answered,) = b.events("question.answered")
        assert (answered["answer"], answered["answered_by"]) == ("deny", "gone")


async def test_records_of_the_host_bound_what_rules_attach():
    async with desk(f"{_TO_WORK}allow class=storage attach=auto\n") as (
        _,
        source,
        _made,
    ):
        source.leaves = ["vault"]
        source.plug()
        await quiet()
        assert source.attached_to == []


async def test_detach_and_the_end_of_a_sandbox_take_devices_back():
    async with desk(f"{_TO_WORK}allow class=storage\n") as (b, source, made):
        source.plug()
        source.plug(port="2-2")
        one = await made.attach("2-1", "work")
        await made.attach("2-2", "work")
        assert (await made.detach("2-1")) is one
        assert set(source.open) == {"2-2"}
        with pytest.raises(RefusedError, match="no device is attached as"):
            await made.detach("2-1")
        await made.lease_ended(WORK.id)
        assert not source.open
        reasons = [event["reason"] for event in b.events("device.detached")]
        assert set(reasons) == {"detached on request", "the sandbox stopped"}


async def test_guest_that_hangs_up_ends_the_attachment():
    async with desk(f"{_TO_WORK}allow class=storage\n") as (_, source, made):
        source.plug()
        await made.attach("2-1", "work")
        source.open["2-1"].end("the guest has hung up")
        await until(source, lambda: not made.holdings())


async def test_required_device_must_be_there_before_the_sandbox_starts():
    rule = f"{_TO_WORK}allow class=storage attach=required\n"
    async with desk(rule) as (_, source, made):
        await made.lease_begun(VAULT)
        with pytest.raises(RefusedError, match="without a device"):
            await made.lease_begun(WORK)
        source.fails = SetupError("no devices: x")
        with pytest.raises(RefusedError, match="cannot look for the device that"):
            await made.lease_begun(WORK)
        source.fails = None
        source.leaves = []
        source.plug()
        await made.lease_begun(WORK)


async def test_attach_that_fails_is_recorded_nowhere_as_attached():
    async with desk(f"{_TO_WORK}allow class=storage\n") as (b, source, made):
        source.plug()

        @asynccontextmanager
        async def broken(number, lease):
            raise UpstreamError("the kernel refuses")
            yield

        source.attached = broken
        with pytest.raises(UpstreamError, match="kernel refuses"):
            await made.attach("2-1", "work")
        assert made.holdings() == []
        assert b.events("device.attached") == []


@pytest.mark.parametrize(
    ("where", "sandbox", "words"),
    [
        ("9-9", "work", "no device or port '9-9' is known"),
        ("2-1", "other", "no sandbox 'other'"),
    ],
)
async def test_attach_of_a_missing_device_is_refused(where, sandbox, words):
    async with desk("") as (_, source, made):
        source.plug()
        with pytest.raises(RefusedError, match=words):
            await made.attach(where, sandbox)
