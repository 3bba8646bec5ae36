"""``vitrail-devices``: the only part that has rights over USB, and uses few.

A broker runs as the user and may not write to sysfs.  This service may, and
does four things for it: list devices, hand one over by usbip, open one's node,
take one back.  It evaluates no rule; ``devices.toml`` bounds it.

What a broker holds ends with its connection: a broker that dies leaves no
device that is bound to nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from broker.core.errors import (
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.limits import devices as limits
from broker.core.stderr_log import log_exception, log_stderr
from broker.ipc.devices import messages
from broker.ipc.devices.description import Device
from broker.ipc.devices.table import (
    Action,
    Appeared,
    DeviceState,
    DeviceTable,
    HeldDevice,
    Plug,
    Vanished,
    item_of,
)
from broker.ipc.in_thread import in_thread
from broker.net.peers.control_peers import is_refused
from broker.root import monitor, receiver, usbip
from broker.root.claims import Claims
from broker.root.handover import Reserve, check_socket, open_node
from broker.root.records import DeviceRecords
from broker.root.strict import StrictMode
from broker.root.sysfs import DEVICES, DeviceGoneError, SysfsDevice
from broker.wire import fdpass

_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 5.0


@dataclass(eq=False)
class _Client:
    """One broker."""

    sock: socket.socket
    """To send to it; a separate process receives its messages."""
    channel: socket.socket
    """Of that process."""
    lock: trio.Lock = field(default_factory=trio.Lock)
    stale: trio.Event = field(default_factory=trio.Event)
    """Set when the client is to learn that the list has changed."""


@dataclass(eq=False)
class _Held:
    """A device that was handed over."""

    plug: Plug
    device: SysfsDevice
    client: _Client
    way: messages.Way
    sandbox: str
    claim: int
    """Of ``Claims.take``."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)
    busy: trio.Lock = field(default_factory=trio.Lock)
    """Of the thread that writes to sysfs: it is not taken back before it is there."""
    reason: str = ""
    asked: bool = False


class Service:
    """All devices of this machine and the brokers that ask for them."""

    def __init__(
        self,
        load: Callable[[], DeviceRecords],
        *,
        shared: Path,
        receivers: socket.socket,
        root: Path = DEVICES,
    ) -> None:
        """``shared``: root's directory, of the services of all users.

        ``receivers``: of ``receiver.start``.

        Raises SetupError for records with mistakes.
        """
        self._claims = Claims(shared)
        self._strict = StrictMode(shared, root)
        self._reserve = Reserve()
        self._receivers = receivers
        self._load = load
        self._records = load()
        self._root = root
        self._table = DeviceTable()
        self._held: dict[str, _Held] = {}
        self._returning: dict[str, trio.Event] = {}
        """Ports whose last device is being taken back."""
        self._stuck: dict[str, _Held] = {}
        """By port: those that the kernel did not give back."""
        self._clients: set[_Client] = set()
        self._malformed: dict[str, str] = {}
        self._ports_held: set[str] = set()
        self._nursery: trio.Nursery | None = None
        self._source = ""
        self._rearm = trio.Event()

    async def run(
        self,
        listener: socket.socket,
        *,
        source: str | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; then every device is taken back."""
        self._source = source or ("udev" if monitor.udevd_runs() else "kernel")
        watcher = monitor.Watcher(
            seen=self._seen,
            removed=self._removed,
            malformed=self._malformed_device,
            root=self._root,
        )
        self._strict.recover()
        self._strict.set(wanted=self._records.strict)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                # guard: a killed service left devices
                await self._claims.recover(
                    authorize=not self._strict.is_on(), root=self._root
                )
                await nursery.start(self._watch, watcher)
                nursery.start_soon(self._release_ports)
                nursery.start_soon(self._accept, listener)
                task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    for held in list(self._held.values()):
                        await self._take_back(held, "vitrail-devices ends")
                self._strict.set(wanted=False)

    async def _watch(
        self, watcher: monitor.Watcher, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await monitor.watch(watcher, source=self._source, task_status=task_status)

    # -- devices -----------------------------------------------------------------------

    def _seen(self, device: Device) -> None:
        self._malformed.pop(device.port, None)
        self._act(self._table.seen(device, trio.current_time()))
        self._strict.follow()

    def _removed(self, port: str) -> None:
        self._malformed.pop(port, None)
        self._act(self._table.removed(port))

    def _malformed_device(self, port: str, reason: str) -> None:
        if len(self._malformed) < limits.DEVICES and port not in self._malformed:
            log_stderr(f"vitrail-devices: port {port}: {reason}")
            self._malformed[port] = reason

    def _act(self, actions: list[Action]) -> None:
        """Carry out the table's actions: revoke, log, and notify all brokers."""
        for action in actions:
            match action:
                case Vanished(plug, reason):
                    self._vanished(plug, reason)
                case HeldDevice(port):
                    self._ports_held.add(port)
                    log_stderr(f"vitrail-devices: port {port} was used too often")
                case Appeared(plug):
                    self._ports_held.discard(plug.device.port)
        self._rearm.set()
        for client in self._clients:
            client.stale.set()

    def _vanished(self, plug: Plug, reason: str) -> None:
        held = self._held.get(plug.attachment)
        if held is not None:
            held.reason = held.reason or reason
            held.scope.cancel()

    async def _release_ports(self) -> None:
        """Release held ports whenever one was quiet long enough; runs for ever."""
        while True:
            self._rearm = trio.Event()
            at = self._table.next_look()
            with trio.move_on_at(trio.current_time() + 3600 if at is None else at):
                await self._rearm.wait()
                continue
            self._act(self._table.look(trio.current_time()))

    # -- brokers -----------------------------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        """Accept brokers of the user, up to a limit, and serve each in a task."""
        assert self._nursery is not None
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except OSError:  # it has gone already, or there is no descriptor
                await trio.sleep(0.1)
                continue
            sock.settimeout(0)
            full = len(self._clients) >= limits.DEVICE_HELPER_CLIENTS
            # A container of the user's may see the socket, and have the user's id.
            # guard: no program of a container takes devices
            if is_refused("vitrail-devices", sock, full=full):
                sock.close()
                continue
            try:
                # guard: root receives no descriptor of a client itself
                channel = receiver.receive_for(self._receivers, sock)
            except OSError as error:
                log_stderr(f"vitrail-devices: cannot serve a broker: {error}")
                sock.close()
                continue
            client = _Client(sock, channel)
            self._clients.add(client)
            self._nursery.start_soon(self._serve, client)

    async def _serve(self, client: _Client) -> None:
        """Serve one broker to its end, then take its devices back."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._push, client)
                nursery.start_soon(_watch_end, client.sock, nursery.cancel_scope)
                await self._requests(client)
                nursery.cancel_scope.cancel()
        except (PeerError, OSError) as error:
            log_stderr(f"vitrail-devices: a broker's connection ended: {error}")
        except Exception as error:  # noqa: BLE001 -- one broker's mistake is not all brokers' end
            log_exception(error)
        finally:
            self._clients.discard(client)
            with trio.CancelScope(shield=True):
                for held in [h for h in self._held.values() if h.client is client]:
                    await self._take_back(held, "the broker has disconnected")
            client.channel.close()
            client.sock.close()

    async def _push(self, client: _Client) -> None:
        """Tell a broker of changes until it has gone, which ``_watch_end`` notices."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while True:
                await client.stale.wait()
                client.stale = trio.Event()
                await self._send(client, messages.Changed())
                await trio.sleep(0.05)  # a burst is one message

    async def _requests(self, client: _Client) -> None:
        """Read and answer a broker's requests, one after the other, until it closes."""
        while True:
            await trio.lowlevel.wait_readable(client.channel)
            try:
                got = fdpass.receive(
                    client.channel, limits.DEVICE_HELPER_MESSAGE_BYTES, 1
                )
            except BlockingIOError:
                continue
            if not got.data:
                return
            try:
                await self._answer(client, got)
            finally:
                fdpass.close_all(got.fds)

    async def _answer(self, client: _Client, got: fdpass.Received) -> None:
        """Answer one request: list, attach, detach, find a machine.  Raises PeerError.

        All but detach read devices.toml; list and attach take back what it denies.
        """
        request = messages.decode_request(got.data)
        fds: tuple[int, ...] = ()
        reply: msgspec.Struct = messages.DeviceDone(request.id)
        try:
            match request:
                case messages.ListDevices():
                    reply = self._list(request)
                case messages.Attach():
                    reply, fds = await self._attach(client, request, got.fds)
                case messages.Detach():
                    await self._detach(client, request)
                case messages.FindMachine():
                    reply = self._way(request)
        except (VitrailError, OSError) as error:
            hint = error.hint if isinstance(error, VitrailError) else ""
            reply = messages.DeviceRefused(request.id, str(error), hint)
        try:
            await self._send(client, reply, fds)
        finally:
            fdpass.close_all(fds)

    async def _send(
        self, client: _Client, message: msgspec.Struct, fds: tuple[int, ...] = ()
    ) -> None:
        """Send a message to a broker.  Raises TooSlowError if it does not read."""
        data = messages.encode(message)
        # A client that does not read is ended: its devices are taken back then.
        with trio.fail_after(limits.DEVICE_DETACH_SECONDS):
            async with client.lock:
                while not _sent(client.sock, data, fds):
                    await trio.lowlevel.wait_writable(client.sock)

    def reload(self) -> None:
        """Read the records again; take back devices that they no longer allow.

        Raises SetupError for a mistake in them; devices that were handed over stay then.
        """
        self._records = self._load()
        for held in self._held.values():
            # guard: records that changed
            if not self._records.allow(held.plug.device, held.sandbox):
                held.reason = held.reason or "this machine's records changed"
                held.scope.cancel()
        # guard: strict mode follows the records
        self._strict.set(wanted=self._records.strict)

    def _list(self, request: messages.ListDevices) -> messages.Devices:
        """Read devices.toml again; return plugged devices and the problems of ports."""
        self.reload()
        items, left_out = _fitting(
            [
                item_of(plug, self._records.sandboxes(plug.device))
                for plug in self._table.plugs()
            ]
        )
        problems = left_out + [
            f"port {p}: {why}" for p, why in sorted(self._malformed.items())
        ]
        problems += [f"port {p} was used too often" for p in sorted(self._ports_held)]
        problems += [
            f"port {p}: the previous sandbox has not released the device yet"
            for p in sorted(self._stuck)
        ]
        return messages.Devices(
            request.id, items, self._strict.is_on(), self._source, problems
        )

    def _way(self, request: messages.FindMachine) -> messages.MachineWay:
        """Read devices.toml; return the way to the machine of a sandbox."""
        found = self._load().machine(request.sandbox)
        if found is None:
            return messages.MachineWay(request.id)
        return messages.MachineWay(request.id, found.kind, found.target, found.uri)

    # -- handing over --------------------------------------------------------------------

    async def _attach(
        self, client: _Client, request: messages.Attach, fds: tuple[int, ...]
    ) -> tuple[messages.Attached, tuple[int, ...]]:
        """Hand a device over, if devices.toml, read again, allows it.  Raises RefusedError."""
        self.reload()
        plug = self._table.find(request.number)
        port = plug.device.port
        await self._port_is_free(port)
        if not self._records.allow(plug.device, request.sandbox):
            raise RefusedError(
                f"devices.toml does not allow the device in port {port} for '{request.sandbox}'",
                hint="allow it there (docs/devices.md); to see the device, run 'brokerctl device list'",
            )
        if request.way == "usbip" and len(fds) != 1:
            raise RefusedError("usbip needs the guest's socket")
        self._table.begin(request.number, request.lease)
        claim = -1
        try:
            claim = self._claims.take(port)
            device = _not_in_use(SysfsDevice(port, self._root))
        except BaseException:
            self._table.ended(plug)
            if claim >= 0:
                self._claims.give_up(port, claim)
            raise
        held = _Held(plug, device, client, request.way, request.sandbox, claim)
        self._held[plug.attachment] = held
        try:
            # In a thread: the kernel waits for the device in some of it, and the
            # devices of others must be taken back meanwhile.
            async with held.busy:
                made, out = await in_thread(self._hand_over, held, request, fds)
            try:
                self._table.attached(plug)
            except BaseException:
                fdpass.close_all(out)
                raise
        except BaseException:
            await self._take_back(held, "not attached")
            raise
        assert self._nursery is not None
        self._nursery.start_soon(self._follow, held)
        self._act([])
        return made, out

    async def _port_is_free(self, port: str) -> None:
        """Wait until the last device of a port is taken back: sysfs names ports."""
        # guard: one device of a port at a time
        while port in self._returning:
            await self._returning[port].wait()
        if port in self._stuck:
            raise RefusedError(
                f"the previous sandbox has not released the device in port {port} yet",
                hint="try again later, when vitrail-devices has taken the device back, or plug it in again",
            )

    def _hand_over(
        self, held: _Held, request: messages.Attach, fds: tuple[int, ...]
    ) -> tuple[messages.Attached, tuple[int, ...]]:
        """Give a device to usbip, or its node to a VMM; return the reply."""
        device, name = held.plug.device, held.plug.attachment
        if request.way == "usbip":
            conn = socket.socket(fileno=fds[0])
            try:
                check_socket(conn)
                found = usbip.export(held.device, device, conn)
            finally:
                conn.detach()
            made = messages.Attached(request.id, name, found.devid, found.speed)
            return made, ()
        usbip.same(held.device, device)
        with self._strict.no_driver_binds(self._claims.is_taken):
            held.device.write("authorized", "1")
        node = open_node(held.device)
        made = messages.Attached(
            request.id, name, bus=device.bus, address=device.number
        )
        return made, (node,)

    async def _follow(self, held: _Held) -> None:
        """Wait for an attachment's end, then take the device back."""
        with held.scope:
            if held.way == "usbip":
                reason = await usbip.wait_ended(held.device)
                held.reason = held.reason or reason
            else:
                await trio.sleep_forever()
        if held.plug.attachment not in self._held:
            return
        name = held.plug.attachment
        with trio.CancelScope(shield=True):
            await self._take_back(held, held.reason)
            if not held.asked:
                if self._is_stuck(held):
                    held.reason += "; the device has not been released yet"
                with contextlib.suppress(OSError, trio.TooSlowError):
                    await self._send(held.client, messages.Ended(name, held.reason))

    async def _detach(self, client: _Client, request: messages.Detach) -> None:
        """End an attachment for its broker.  Raises RefusedError for another's."""
        held = self._held.get(request.attachment)
        if held is None or held.client is not client:
            raise RefusedError("there is no such attachment")
        held.asked = True
        held.reason = held.reason or "detached"
        held.scope.cancel()
        if held.plug.state is not DeviceState.DETACHING:
            await self._take_back(held, "detached")
        else:
            await held.ended.wait()
        if self._is_stuck(held):
            raise UpstreamError(
                f"the kernel has not released the device in port {held.plug.device.port}; vitrail-devices will try again"
            )

    def _is_stuck(self, held: _Held) -> bool:
        return self._stuck.get(held.plug.device.port) is held

    async def _take_back(self, held: _Held, reason: str) -> None:
        """Take a device back to this machine, or wait while another caller does."""
        name = held.plug.attachment
        if self._held.pop(name, None) is None:
            await held.ended.wait()
            return
        held.reason = held.reason or reason
        self._table.ending(held.plug)
        held.scope.cancel()
        port = held.plug.device.port
        self._returning[port] = trio.Event()
        back = False
        with trio.CancelScope(shield=True):
            try:
                async with held.busy:
                    back = await self._give_back(held)
            finally:
                self._stuck[port] = held
                if back:
                    self._is_back(held)
                else:
                    log_stderr(f"vitrail-devices: port {port} is not yet taken back")
                    assert self._nursery is not None
                    self._nursery.start_soon(self._try_again, held)
                self._table.ended(held.plug)
                self._returning.pop(port).set()
                held.ended.set()
                self._act([])

    async def _give_back(self, held: _Held) -> bool:
        """Return whether no sandbox has the device any more."""
        with self._reserve.used():
            strictly = self._strict.is_on()
            try:
                if held.way == "usbip":
                    return await usbip.release(held.device, authorize=not strictly)
                if strictly:
                    await in_thread(held.device.write, "authorized", "0")
            except DeviceGoneError:
                pass
            # The kernel refuses, or no thread can be started.
            # guard: a device that could not be taken back is tried again
            except UpstreamError:
                return False
        return True

    async def _try_again(self, held: _Held) -> None:
        # Nothing of the kernel's can be awaited.
        while not await self._give_back(held):  # noqa: ASYNC110
            await trio.sleep(_AGAIN_SECONDS)
        self._is_back(held)
        self._act([])

    def _is_back(self, held: _Held) -> None:
        """Give up the claim of a port whose device this machine's drivers have again."""
        port = held.plug.device.port
        held.device.close()
        self._claims.give_up(port, held.claim)
        del self._stuck[port]


def _fitting(
    items: list[messages.DeviceItem],
) -> tuple[list[messages.DeviceItem], list[str]]:
    """Return the items that fit into one packet together, and why others do not.

    The largest are left out: a device says itself how many interfaces it has, and
    a device that says many must not hide the others.
    """
    sizes = {item.number: len(messages.encode(item)) for item in items}
    fitting, total = set[int](), 0
    for item in sorted(items, key=lambda item: (sizes[item.number], item.number)):
        total += sizes[item.number] + 1
        # guard: a list fits into a packet
        if total > limits.DEVICE_LIST_BYTES:
            break
        fitting.add(item.number)
    problems = [
        f"port {item.port}: its description is too long to be listed with the others"
        for item in items
        if item.number not in fitting
    ]
    return [item for item in items if item.number in fitting], problems[:16]


def _not_in_use(device: SysfsDevice) -> SysfsDevice:
    """Return a device, or close and refuse it if others have handed it over."""
    # guard: a device of another service is left with it
    if usbip.in_use(device):
        device.close()
        raise RefusedError(
            f"cannot attach the device in port {device.port}: usbip already exports it",
            hint=f"if no sandbox of another user has it, run 'sudo usbip unbind --busid={device.port}'",
        )
    return device


async def _watch_end(sock: socket.socket, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` when a client has gone; its process may hang and not say so."""
    poll = select.poll()
    poll.register(sock, 0)
    while not poll.poll(0):  # noqa: ASYNC110 -- another process reads the data
        await trio.sleep(_LOOK_SECONDS)
    scope.cancel()


def _sent(sock: socket.socket, data: bytes, fds: tuple[int, ...]) -> bool:
    """Send a packet, whole or not at all; whether there was room for it."""
    try:
        fdpass.send(sock, data, fds)
    except BlockingIOError:
        return False
    return True
