"""Which device is in which port, and which sandbox has it.

Runs in ``vitrail-devices`` only.  Sans-IO: takes the monitor's events with their time,
and returns actions.  Each plug-in has a separate number; every later word about it
(a verdict, an attach, a detach) names that number, so a word about a device
that has gone never reaches the device that is in its port now.

A port that is plugged too often is *held*: its device is examined when the port has
been quiet, so a device that comes and goes a hundred times a second costs an entry of
this table and no decision, no question and no process.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from enum import StrEnum

from broker.core.errors import RefusedError
from broker.core.escape import fit
from broker.core.limits import devices as limits
from broker.core.limits.link import LINK_TEXT_CHARACTERS as TEXT
from broker.core.token_bucket import TokenBucket
from broker.ipc.devices.description import Device
from broker.ipc.devices.messages import DeviceItem


class DeviceState(StrEnum):
    """The state of one plug-in."""

    HELD = "held"
    """Its port is plugged too often; nothing is decided."""
    PLUGGED = "plugged"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


@dataclass(eq=False)
class Plug:
    """One plug-in of one device."""

    number: int
    device: Device
    since: float
    state: DeviceState = DeviceState.PLUGGED
    lease: str = ""
    """The lease of the sandbox that has the device, or is about to."""
    attachment: str = ""
    """Names the attachment in the log and on the command line."""
    gone: bool = False
    """The device is not in its port any more."""


@dataclass(frozen=True)
class Appeared:
    """A device is to be decided about."""

    plug: Plug


@dataclass(frozen=True)
class Vanished:
    """A plug-in is over; ``reason`` says how."""

    plug: Plug
    reason: str


@dataclass(frozen=True)
class HeldDevice:
    """A port is plugged too often; reported once, until it is quiet again."""

    port: str


Action = Appeared | Vanished | HeldDevice


@dataclass(eq=False)
class _Port:
    pace: TokenBucket = field(
        default_factory=lambda: TokenBucket(
            limits.DEVICE_PLUGS_PER_SECOND, limits.DEVICE_PLUGS_BURST
        )
    )
    quiet_at: float = 0.0
    held: bool = False
    last: float = 0.0


class DeviceTable:
    """All plug-ins of one machine."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._attachments = itertools.count(1)
        self._in_port: dict[str, Plug] = {}
        self._ports: dict[str, _Port] = {}

    # -- what the monitor sees -------------------------------------------------------

    def seen(self, device: Device, now: float) -> list[Action]:
        """Note that a port has a device; return the actions that follow.

        To be called for each event about it: a change ends the
        plug-in that was decided about.
        """
        known = self._in_port.get(device.port)
        # guard: changed descriptors
        if known is not None and known.device.fingerprint == device.fingerprint:
            known.device = device  # its driver or its authorization may be another
            return []
        actions = self.removed(device.port, "another device is in its port")
        if actions and known is not None and known.device.number == device.number:
            actions = [Vanished(known, "the device's descriptors have changed")]
        if len(self._in_port) >= limits.DEVICES:
            return actions
        plug = Plug(next(self._numbers), device, now)
        self._in_port[device.port] = plug
        return [*actions, *self._paced(plug, now)]

    def _paced(self, plug: Plug, now: float) -> list[Action]:
        """Report a new device, or hold it back where its port is plugged too often."""
        self._forget_ports(now)
        port = self._ports.setdefault(plug.device.port, _Port())
        port.last = now
        early = port.pace.take(now)
        # guard: ports are held
        if early <= 0 and not port.held:
            return [Appeared(plug)]
        plug.state = DeviceState.HELD
        port.quiet_at = now + limits.DEVICE_HOLD_SECONDS
        if port.held:
            return []
        port.held = True
        return [HeldDevice(plug.device.port)]

    def _forget_ports(self, now: float) -> None:
        """Drop the pace of quiet, empty ports, once many are kept."""
        if len(self._ports) < 2 * limits.DEVICES:
            return
        for name, port in list(self._ports.items()):
            if name not in self._in_port and now - port.last > 60.0:
                del self._ports[name]

    def removed(self, port: str, reason: str = "unplugged") -> list[Action]:
        """Forget the unplugged device of a port; return the actions that follow."""
        plug = self._in_port.pop(port, None)
        if plug is None:
            return []
        plug.gone = True
        return [] if plug.state is DeviceState.HELD else [Vanished(plug, reason)]

    def next_look(self) -> float | None:
        """Return when ``look`` must next be called; None if no port is held."""
        times = [port.quiet_at for port in self._ports.values() if port.held]
        return min(times, default=None)

    def look(self, now: float) -> list[Action]:
        """Release the ports that were quiet long enough.

        Return the actions that follow.
        """
        actions: list[Action] = []
        for name, port in self._ports.items():
            if port.held and port.quiet_at <= now:
                port.held, port.pace = False, _Port().pace
                plug = self._in_port.get(name)
                if plug is not None and plug.state is DeviceState.HELD:
                    plug.state = DeviceState.PLUGGED
                    actions.append(Appeared(plug))
        return actions

    # -- who has what ----------------------------------------------------------------

    def plugs(self) -> list[Plug]:
        """Return all plugged devices, oldest first."""
        return sorted(self._in_port.values(), key=lambda plug: plug.number)

    def find(self, number: int) -> Plug:
        """Return the plugged-in device ``number``.  Raises RefusedError if it has gone."""
        for plug in self._in_port.values():
            if plug.number == number:
                return plug
        raise RefusedError("the device was unplugged or has changed")

    def begin(self, number: int, lease: str) -> Plug:
        """Reserve a device for a sandbox, for an attach that begins now.

        Raises RefusedError when it is not there, is another's, or is a hub.
        """
        plug = self.find(number)
        # guard: hubs stay
        if plug.device.hub:
            raise RefusedError(
                f"cannot attach the device in port {plug.device.port}: it is a hub",
                hint="attach the devices that are connected to the hub, one by one",
            )
        if plug.state is DeviceState.HELD:
            raise RefusedError(
                f"cannot attach the device in port {plug.device.port}: devices were plugged in there too often",
                hint=f"leave the device plugged in for {limits.DEVICE_HOLD_SECONDS:g} s, and try again",
            )
        # guard: a device in use is assigned to no second sandbox
        if plug.state is not DeviceState.PLUGGED:
            raise RefusedError(
                f"the device in port {plug.device.port} is already in use by a sandbox",
                hint=f"to detach the device, run 'brokerctl device detach {plug.device.port}'",
            )
        plug.state, plug.lease = DeviceState.ATTACHING, lease
        plug.attachment = f"dev-{next(self._attachments)}"
        return plug

    def attached(self, plug: Plug) -> None:
        """The attach is done.  Raises RefusedError when the device has gone meanwhile."""
        # guard: a swap during the attach
        if plug.gone or self._in_port.get(plug.device.port) is not plug:
            raise RefusedError("the device was unplugged or has changed")
        plug.state = DeviceState.ATTACHED

    def ending(self, plug: Plug) -> None:
        """Mark a device as being detached."""
        plug.state = DeviceState.DETACHING

    def ended(self, plug: Plug) -> None:
        """Mark a device as free; while it is plugged in, it may be attached again."""
        plug.state, plug.lease, plug.attachment = DeviceState.PLUGGED, "", ""

    def of_lease(self, lease: str) -> list[Plug]:
        """Return the devices that a sandbox has, or is about to have."""
        return [plug for plug in self.plugs() if plug.lease == lease]


def item_of(plug: Plug, sandboxes: list[str]) -> DeviceItem:
    """Return a plug-in as ``vitrail-devices`` lists it to a broker.

    Texts for users are cut, what rules compare is not.
    """
    device = plug.device
    return DeviceItem(
        number=plug.number,
        port=device.port,
        device_id=device.id,
        serial=device.serial,
        digest=device.digest,
        interfaces=[str(interface) for interface in device.interfaces],
        title=fit(device.title, TEXT),
        driver=fit(device.driver, TEXT),
        removable=device.removable,
        state=plug.state.value,
        authorized=device.authorized,
        hub=device.hub,
        sandboxes=sandboxes[: limits.DEVICE_LISTED_SANDBOXES],
        lease=plug.lease,
        attachment=plug.attachment,
    )
