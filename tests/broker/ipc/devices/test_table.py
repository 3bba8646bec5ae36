"""Plug-ins, who has them, and ports that are plugged too often."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.core.errors import RefusedError
from broker.core.limits import devices as limits
from broker.ipc.devices.table import (
    Appeared,
    DeviceState,
    DeviceTable,
    HeldDevice,
    Vanished,
)
from tests.kit.usb.samples import HUB, KEYBOARD, STICK, device


def appeared(actions):
    (action,) = actions
    assert isinstance(action, Appeared)
    return action.plug


def test_device_is_decided_about_once():
    table = DeviceTable()
    plug = appeared(table.seen(device(), 0.0))
    assert table.seen(device(driver="usb-storage"), 0.1) == []
    assert plug.device.driver == "usb-storage"
    assert table.plugs() == [plug]


def test_changed_descriptors_end_the_plug_in():
    table = DeviceTable()
    plug = appeared(table.seen(device(), 0.0))
    assert table.begin(plug.number, "lease") is plug
    table.attached(plug)
    gone, new = table.seen(device(STICK, KEYBOARD), 1.0)
    assert gone == Vanished(plug, "the device's descriptors have changed")
    assert isinstance(new, Appeared)
    assert plug.gone


def test_verdict_about_a_device_never_reaches_the_next_in_its_port():
    table = DeviceTable()
    old = appeared(table.seen(device(serial="A"), 0.0))
    table.removed("2-1")
    new = appeared(table.seen(device(serial="A", number=6), 1.0))
    with pytest.raises(RefusedError, match="unplugged or has changed"):
        table.begin(old.number, "lease")
    assert new.state is DeviceState.PLUGGED


def test_swap_during_the_attach_is_noticed():
    table = DeviceTable()
    plug = appeared(table.seen(device(), 0.0))
    table.begin(plug.number, "lease")
    table.seen(device(number=6), 1.0)
    with pytest.raises(RefusedError, match="unplugged or has changed"):
        table.attached(plug)


def test_one_device_is_never_two_sandboxes():
    table = DeviceTable()
    plug = appeared(table.seen(device(), 0.0))
    table.begin(plug.number, "one")
    with pytest.raises(RefusedError, match="already in use"):
        table.begin(plug.number, "other")
    table.ended(plug)
    assert table.begin(plug.number, "other").attachment == "dev-2"


def test_hubs_are_never_attached():
    table = DeviceTable()
    plug = appeared(table.seen(device(HUB), 0.0))
    with pytest.raises(RefusedError, match="is a hub"):
        table.begin(plug.number, "lease")


def test_replugging_a_hundred_times_a_second_is_held():
    table = DeviceTable()
    actions = []
    for step in range(1000):
        actions += table.seen(device(number=step % 100 + 1), step / 100)
        actions += table.removed("2-1")
    seen = [action for action in actions if isinstance(action, Appeared)]
    assert limits.DEVICE_PLUGS_BURST <= len(seen) <= limits.DEVICE_PLUGS_BURST + 1
    assert sum(isinstance(action, HeldDevice) for action in actions) == 1
    assert table.plugs() == []
    last = table.seen(device(number=7), 10.0)
    assert last == []
    (plug,) = table.plugs()
    with pytest.raises(RefusedError, match="too often"):
        table.begin(plug.number, "lease")
    assert table.next_look() == 10.0 + limits.DEVICE_HOLD_SECONDS
    assert table.look(10.0 + limits.DEVICE_HOLD_SECONDS - 0.1) == []
    assert appeared(table.look(10.0 + limits.DEVICE_HOLD_SECONDS)) is plug


def test_other_ports_are_not_held():
    table = DeviceTable()
    for step in range(100):
        table.seen(device(number=step + 1), step / 100)
    assert appeared(table.seen(device(port="2-2"), 1.0)).device.port == "2-2"


def test_devices_are_bounded():
    table = DeviceTable()
    for number in range(limits.DEVICES):
        appeared(table.seen(device(port=f"{number + 1}-1"), 0.0))
    assert table.seen(device(port="999-1"), 0.0) == []
    assert len(table.plugs()) == limits.DEVICES


def test_memory_of_ports_is_bounded():
    table = DeviceTable()
    for number in range(5 * limits.DEVICES):
        now = 100.0 * number
        table.seen(device(port=f"{number % 4000 + 1}-1"), now)
        table.removed(f"{number % 4000 + 1}-1")
    assert len(table._ports) <= 2 * limits.DEVICES


class Machine(RuleBasedStateMachine):
    """Whatever happens, a device has one owner and each word one plug-in."""

    def __init__(self):
        super().__init__()
        self.table = DeviceTable()
        self.now = 0.0
        self.open = set()

    def take(self, actions):
        for action in actions:
            if isinstance(action, Vanished):
                assert action.plug.gone
                self.open.discard(action.plug.number)
            if isinstance(action, Appeared):
                assert action.plug.number not in self.open
                self.open.add(action.plug.number)

    @rule(
        port=st.sampled_from(["1-1", "1-2"]),
        number=st.integers(1, 3),
        serial=st.sampled_from("AB"),
        s=st.floats(0, 3),
    )
    def plug(self, port, number, serial, s):
        self.now += s
        self.take(
            self.table.seen(device(port=port, number=number, serial=serial), self.now)
        )

    @rule(port=st.sampled_from(["1-1", "1-2"]))
    def unplug(self, port):
        self.take(self.table.removed(port))

    @rule()
    def look(self):
        at = self.table.next_look()
        if at is not None:
            self.now = max(self.now, at)
            self.take(self.table.look(self.now))

    @precondition(lambda self: self.table.plugs())
    @rule(data=st.data())
    def attach(self, data):
        plug = data.draw(st.sampled_from(self.table.plugs()))
        try:
            self.table.begin(plug.number, "lease")
        except RefusedError:
            assert plug.state is not DeviceState.PLUGGED
            return
        assert plug.number in self.open
        self.table.attached(plug)

    @precondition(lambda self: self.table.of_lease("lease"))
    @rule(data=st.data())
    def detach(self, data):
        plug = data.draw(st.sampled_from(self.table.of_lease("lease")))
        self.table.ending(plug)
        self.table.ended(plug)

    @invariant()
    def attachments_are_unique(self):
        names = [p.attachment for p in self.table.plugs() if p.attachment]
        assert len(names) == len(set(names))


TestMachine = Machine.TestCase
