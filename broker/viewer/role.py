"""The viewer's part: the services and windows of leased sandboxes.

Implements ``host_viewer.Viewer``.  It never learns how a peer was
recognised, only which lease its host announced; it decides by policy, and no
stream flows before its decision is on record.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Permit, Request
from broker.core.errors import InternalError, RefusedError, VitrailError
from broker.core.files.sandbox_logs import KEPT, prune_logs
from broker.core.lease import Lease, Opening
from broker.core.names import LeaseId, SandboxName, sandboxes_named, take_sandbox_name
from broker.core.paths import Paths
from broker.core.services import (
    AGENT,
    AUDIO,
    DISPLAY,
    FOLDER,
    NETWORK,
    SECURITY_KEY,
    SSH_AGENT,
    SSH_KEYS_VARIABLE,
    TRANSFERS,
)
from broker.core.stderr_log import run_isolated
from broker.host_and_viewer.host_folders import Host
from broker.host_and_viewer.sandbox_names import not_running
from broker.ipc.audit import schema
from broker.ipc.host_viewer import TaskStatus
from broker.ipc.in_thread import in_thread
from broker.ipc.session.folder_orders import DRAW_ICONS, DrawIcons
from broker.ipc.worker import TOKEN_CHARACTERS, RaiseWindow
from broker.net.connection_quota import SoundSlot
from broker.net.hangup import given, hang_up
from broker.viewer.authority.interface import Authority
from broker.viewer.calls.desktop_services import DesktopServices
from broker.viewer.camera import Cameras
from broker.viewer.clipboard.ordered_chords import ordered_chords
from broker.viewer.clipboard.service import ClipboardService
from broker.viewer.devices.desk import DeviceDesk
from broker.viewer.dialogs import desktop_variables
from broker.viewer.folders.desk import FolderDesk
from broker.viewer.folders.guest_folders import GuestFolders
from broker.viewer.folders.streamed import StreamedFolders
from broker.viewer.hung_up import when_hung_up
from broker.viewer.network.forwards import PortForwards
from broker.viewer.network.network_flows import NetworkFlows
from broker.viewer.notifications.notification_service import NotificationService
from broker.viewer.notifications.question_notice import QuestionNotice
from broker.viewer.orders.filtered_bus import FilteredBus
from broker.viewer.orders.order_places import caused_by
from broker.viewer.sandboxes.dependencies import GuestTools
from broker.viewer.sandboxes.disposables import is_disposable, remove_logs
from broker.viewer.sandboxes.guest import Guest
from broker.viewer.sandboxes.launch_steps import Step
from broker.viewer.sandboxes.named_lease import several_run
from broker.viewer.screens import ScreenShares
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from broker.viewer.sound.raw_audio import is_raw, raw_stream
from broker.viewer.ssh.ssh_keys import has_keys
from broker.viewer.stream_reply import Answer, OpeningReply, no_waiter
from broker.viewer.transfer.dropped_files import DroppedFiles
from broker.viewer.transfer.moving import TransferParts
from broker.viewer.transfer.own import Own
from broker.viewer.transfer.person import PersonOpens
from broker.viewer.transfer.service import OpeningService
from broker.viewer.transfer.targets import Targets
from broker.viewer.uses.use_marks import UseMarks
from policy.records.model import Label, Record
from policy.records.places import writable

_GRACE = 5.0


class ViewerRole:
    """All guests of one viewer."""

    def __init__(
        self,
        *,
        paths: Paths,
        tools: GuestTools,
        log: event_log.EventLog,
        authority: Authority,
        host: Host,
    ) -> None:
        self._paths = paths
        self._tools = tools
        self._log = log
        self._guests: dict[LeaseId, Guest] = {}
        self._host = host
        self._nursery: trio.Nursery | None = None
        bus = FilteredBus(tools.session)
        self.marks = UseMarks(self.guests, bus.notifications, tools.session)
        """What sandboxes ask and use now, as the user sees it."""
        self._drawn: Mapping[str, Label] = {}
        """For which icons in the menu were looked at."""
        self.authority = authority
        """Decides every request of a sandbox; all services of the viewer use it."""
        self.clipboard = ClipboardService(
            decider=authority,
            log=log,
            record=lambda lease: self.record(lease.record),
            choose=partial(ordered_chords, tools.session),
        )
        """The user's copies, pastes and drags between sandboxes."""
        own = Own(tools.session)
        self.targets = Targets(self, own, host)
        self.cameras = Cameras(log, tools.session, self.marks.signs)
        """Who uses the user's camera."""
        self.screens = ScreenShares(log, tools.session, bus, self.marks.signs)
        """Who sees a screen or window of the user's."""
        self.notifications = NotificationService(
            decider=authority, log=log, bus=bus.notifications
        )
        """What programs of sandboxes want the user to see."""
        self.notifications.raise_window = self._raise_window
        self.question = QuestionNotice(bus.notifications, self.marks.mark_asking)
        """Tells the user of a question that waits behind other windows."""
        desktop = DesktopServices(
            tools.session, self.cameras, self.screens, self.notifications, bus
        )
        self._settings, self._tray = desktop.settings, desktop.tray
        transfer = TransferParts(
            authority, log, self.targets, own, self.writable_places
        )
        self.opening = OpeningService(transfer, tools.pump, desktop)
        """Files and links that programs of sandboxes want opened or copied."""
        self.forwards = PortForwards(
            decider=authority,
            log=log,
            calls=self.opening.calls,
            pump=tools.pump,
            session=tools.session,
            named=self.one,
        )
        """Ports of sandboxes that the user's programs connect to."""
        self.clipboard.carriers.of_sandboxes = self.opening.give
        self.clipboard.carriers.of_the_user = DroppedFiles(transfer).give
        self.person = PersonOpens(transfer)
        """Files and links that the user opens in, or copies to, a sandbox."""
        self.devices = DeviceDesk(
            source=host.devices,
            decider=authority,
            log=log,
            leases=self._leases,
        )
        """Assigns devices to sandboxes."""
        self._shared_key = SharedKey(self.marks.signs)
        self.network = NetworkFlows(
            decider=authority,
            log=log,
            record=lambda lease: self.record(lease.record),
        )
        """Flows of sandboxes to hosts outside."""
        self.folders = FolderDesk(
            source=host.folders,
            decider=authority,
            log=log,
            leases=self._leases,
            record=lambda lease: self.record(lease.record),
            inside=self._folders_inside,
            session=tools.session,
            streamed=isinstance(host.folders, StreamedFolders),
        )
        """Shares directories of the user's with sandboxes."""

    def _leases(self) -> list[Lease]:
        return [guest.lease for guest in self.guests()]

    def _folders_inside(self, lease: Lease) -> GuestFolders | None:
        guest = self.guest(lease.id)
        return None if guest is None else guest.folders

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Run the tasks of all guests and services until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._follow_changes)
            nursery.start_soon(self.marks.run)
            nursery.start_soon(self.notifications.run)
            nursery.start_soon(self.question.run)
            nursery.start_soon(self._settings.run)
            await nursery.start(self.clipboard.run)
            await nursery.start(self.devices.run)
            await nursery.start(self.folders.run)
            task_status.started()
            await trio.sleep_forever()

    def _raise_window(self, lease: LeaseId, token: str) -> None:
        """Raise a window of a sandbox for the user's click on its notification."""
        guest = self.guest(lease)
        if guest is not None and token and self._nursery is not None:
            order = RaiseWindow(token[:TOKEN_CHARACTERS])
            self._nursery.start_soon(run_isolated, guest.raise_window, order)

    def writable_places(self) -> list[Path]:
        """Return directories in which a sandbox may have created links."""
        records = self.authority.records.records.values()
        return [
            self._paths.homes,
            *(place for record in records for place in writable(record)),
            *self.folders.written(),
        ]

    async def _follow_changes(self) -> None:
        """Apply changed records and rules to what the viewer holds."""
        while True:
            await self.authority.wait_changed()
            if self._nursery is not None:
                self._nursery.start_soon(self._decide_again)
                self._nursery.start_soon(run_isolated, self._follow_icons)
                self._nursery.start_soon(run_isolated, self._tray.follow)
                for guest in self.guests():
                    self._nursery.start_soon(run_isolated, guest.follow_record)

    async def _follow_icons(self) -> None:
        """Have a session child redraw the icons of records if their labels have changed."""
        records = self.authority.records.records.values()
        # No icon is made for what 'brokerctl run' has written.
        kept = (r for r in records if not r.source.is_relative_to(self._paths.runtime))
        labels = {record.name: record.viewer.label for record in kept}
        if labels != self._drawn:
            await self._tools.session.carry_out(DRAW_ICONS, DrawIcons())
            self._drawn = labels

    async def _decide_again(self) -> None:
        await run_isolated(self.clipboard.decide_again)
        self.devices.look_again()
        self.network.follow_records()
        self._settings.tell_again()

    def guests(self) -> list[Guest]:
        """All guests, oldest first."""
        return list(self._guests.values())

    def guest(self, lease: LeaseId) -> Guest | None:
        """The guest of a lease."""
        return self._guests.get(lease)

    def named(self, untrusted_name: str) -> list[Guest]:
        """Return the guests that a name means, at least one.  Raises NotFoundError."""
        name = take_sandbox_name(untrusted_name)
        pairs = [(guest.lease.sandbox, guest.lease.record) for guest in self.guests()]
        named = set(sandboxes_named(name, pairs))
        if not named:
            raise not_running(name, pairs)
        return [guest for guest in self.guests() if guest.lease.sandbox in named]

    def one(self, untrusted_name: str) -> Guest:
        """Return the one guest that a name means.  Raises NotFoundError."""
        found = self.named(untrusted_name)
        if len(found) > 1:
            raise several_run(untrusted_name, [guest.lease.sandbox for guest in found])
        return found[0]

    def record(self, name: SandboxName) -> Record | None:
        """The record of that name, as the files are now."""
        return self.authority.records.records.get(name)

    async def _rule_variables(self, lease: Lease, display: bool) -> dict[str, str]:  # noqa: FBT001 -- a callback
        """Return the variables of a machine's program, by the rules in force."""
        keys = await has_keys(self.authority, lease)
        desktop = await desktop_variables(self.authority, lease, display=display)
        return {**({SSH_KEYS_VARIABLE: "1"} if keys else {}), **desktop}

    # -- host_viewer.Viewer ---------------------------------------------------

    async def lease_begun(self, lease: Lease) -> None:
        """Create the guest of a sandbox that the host has leased.

        Raises RefusedError, and UpstreamError where old logs cannot be removed.
        """
        if self._nursery is None:
            raise InternalError("received a lease before the viewer was running")
        if self.record(lease.record) is None:
            raise RefusedError(
                f"the viewer has no valid record '{lease.record}'",
                hint=f"add '{lease.record}.toml' to sandboxes.d on the viewer; to find mistakes "
                "in the record, run 'brokerctl policy check' there",
            )
        logs = self._paths.logs(lease.sandbox)
        # guard: many files that a viewer left among logs hold up no other sandbox
        await in_thread(
            prune_logs,
            logs.parent,
            KEPT,
            lambda: {each.sandbox for each in (lease, *self._leases())},
        )
        await self.devices.lease_begun(lease)
        guest = Guest(
            lease,
            lambda: self.record(lease.record),
            self._tools,
            display=self._paths.displays / lease.sandbox,
            logs=logs,
        )
        guest.acted = partial(self.authority.acted, lease.id)
        guest.rule_variables = partial(self._rule_variables, lease)
        guest.sound.decider, guest.sound.signs = self.authority, self.marks.signs
        with trio.CancelScope(shield=True), caused_by(lease.record):
            # It starts without a wait; cancelled there, its directory would stay.
            await self._nursery.start(guest.run)
        self.clipboard.begin(guest)
        self._guests[lease.id] = guest
        self._nursery.start_soon(self._end_when_idle, guest)
        try:
            await self.authority.lease_begun(lease)
            with caused_by(lease.record):
                await self.folders.lease_begun(lease)
        except BaseException:
            # Its start was cancelled, or it has stopped; the host ends only what has
            # begun here, and a later sandbox of this name would not be found.
            # guard: a sandbox that is given up while it begins leaves nothing
            await self.lease_ended(lease.id, "its start was cancelled")
            raise
        self.devices.look_again()
        guest.prepare()

    async def arena_lent(self, lease: LeaseId, fd: int) -> None:
        """Store a sandbox's arena for its display streams.  Raises RefusedError."""
        guest = self._guests.get(lease)
        # guard: memory is lent to a sandbox that was announced
        if guest is None:
            raise RefusedError("the lease was not announced to this viewer")
        guest.streams.take_arena(fd)

    async def machine_stopped(self, lease: LeaseId, reason: str) -> None:
        """Refuse requests to a sandbox while the host has stopped its machine."""
        if (guest := self._guests.get(lease)) is not None:
            guest.programs.shortage = reason

    async def lease_ended(
        self, lease: LeaseId, reason: str, *, machine_lives: bool = False
    ) -> None:
        """End all that the viewer had of a sandbox; not cancellable."""
        guest = self._guests.pop(lease, None)
        with trio.CancelScope(shield=True):  # no other code would do the rest
            await self.devices.lease_ended(lease)
            await self.folders.lease_ended(lease)
            if guest is not None:
                await guest.close(reason)
                await self.clipboard.lease_ended(guest.lease)
            await self.authority.lease_ended(lease)
            if guest is not None:
                # Its daemons' calls have ended with their permissions.
                self.notifications.lease_ended(guest.lease)
                if not machine_lives:
                    await remove_logs(guest.lease, self.record, self._paths)

    async def stream_opened(
        self,
        opening: Opening,
        conn: socket.socket,
        *,
        task_status: TaskStatus,
        answer: Answer = no_waiter,
    ) -> None:
        """Decide about a stream, record the decision, and carry the stream to its end.

        ``answer`` is awaited when the decision is made, before a byte is read;
        where the user must be asked first, it is "taken" as soon as that is
        known, so that no deadline of a program depends on a user.
        """
        status = OpeningReply(task_status, answer)
        # guard: orders of a sandbox's streams count to its record
        with given(conn), caused_by(opening.lease.record):
            try:
                await self._permitted(opening, conn, status)
            except VitrailError as error:
                if not status.taken:
                    # Before we hang up: over a link the answer goes the same way.
                    # guard: an answer before the end
                    await answer(error)
                    raise
                # It was taken, so no caller waits for this; the decision is recorded.
                hang_up(conn)

    async def _permitted(
        self, opening: Opening, conn: socket.socket, status: OpeningReply
    ) -> None:
        guest = self._guests.get(opening.lease.id)
        if guest is None:
            raise RefusedError("the lease was not announced to this viewer")
        # Before its first event: a host that was taken over asks no share.
        # guard: a stream asks the share
        self._log.check_share(opening.lease)
        if opening.service in TRANSFERS or opening.service == SSH_AGENT:
            # The request decides, and it is read by the sandbox's worker.
            with guest.streams.place():
                await self.opening.stream(guest, opening, conn, status.take)
        elif opening.service == NETWORK:
            # Not one decision for the stream, but one for each destination.
            with self.network.place(opening.lease.id):
                await status.say()
                await self.network.carry(opening, conn, task_status=status)
        elif opening.service == FOLDER:
            # Decided when it was shared.
            with guest.streams.place():
                await self._folder(opening, conn, status)
        elif opening.service == AUDIO:
            async with guest.sound.reserve(opening, conn, status) as slot:
                await self._decide_and_carry(guest, opening, conn, status, slot)
        elif opening.service == SECURITY_KEY:
            # Not one decision for the connection, but one for each use.
            await self._security_key(opening, conn, status)
        else:
            await self._decide_and_carry(guest, opening, conn, status)

    async def _decide_and_carry(
        self,
        guest: Guest,
        opening: Opening,
        conn: socket.socket,
        status: OpeningReply,
        slot: SoundSlot | None = None,
    ) -> None:
        """Ask the authority for a stream's permit; carry the stream to its end.

        The sandbox's worker gets its socket, or the pump.  Raises RefusedError.
        """
        sound, windows = opening.service == AUDIO, opening.service == DISPLAY
        # guard: a direct connection opens with its decision only for a display
        request = Request(
            lease=opening.lease,
            service=opening.service,
            stream=opening.stream,
            peer=opening.peer,
            raw=sound and is_raw(self.record(opening.lease.record)),
            opens=opening.service == AGENT or (windows and opening.direct),
            counts_bytes=False,  # the pump moves them uncounted
        )
        # libpulse gives up after 30 s, and connects again when the program plays.
        given_up = trio.Event() if sound else None
        with (
            guest.streams.display_open() if windows else contextlib.nullcontext(),
            contextlib.ExitStack() as asking,
            trio.CancelScope() as gone,
        ):

            async def on_ask() -> None:
                await status.take()
                # guard: a question holds no place at the sound server
                if slot is not None:
                    slot.release()
                if self._nursery is not None:
                    over = trio.Event()
                    asking.callback(over.set)
                    tell = gone.cancel if given_up is None else given_up.set
                    self._nursery.start_soon(when_hung_up, conn, over, tell)
                if windows:
                    asking.enter_context(guest.programs.person_asked())

            allowed = False
            try:
                async with self.authority.permit(
                    request, on_ask=on_ask, gone=given_up
                ) as permit:
                    allowed = True
                    asking.close()
                    if slot is not None:
                        await slot.hold()
                    if request.opens:
                        await self._carry_opened(guest, opening, conn, status)
                        return
                    with guest.streams.place():
                        # What was decided about, whatever the record is by now.
                        carry = self._carry_raw_sound if request.raw else self._carry
                        await carry(guest, opening, conn, status, permit)
            except RefusedError as error:
                guest.programs.refused(opening.service, str(error))
                if windows and not allowed:
                    # A run that waits for a window need not wait any longer.
                    guest.programs.fail(str(error), Step.STREAM)
                raise

    async def _carry_opened(
        self, guest: Guest, opening: Opening, conn: socket.socket, status: OpeningReply
    ) -> None:
        """Carry a stream whose permit has recorded it as opened."""
        streams = guest.streams
        carry = streams.agent if opening.service == AGENT else streams.wayland
        async with streams.opened(opening) as outcome:
            await status.say()
            await carry(opening, conn, outcome, task_status=status)

    async def _carry(
        self,
        guest: Guest,
        opening: Opening,
        conn: socket.socket,
        status: OpeningReply,
        permit: Permit,
    ) -> None:
        if opening.service == DISPLAY:
            await status.say()
            await guest.streams.display(opening, conn, task_status=status)
        elif opening.service == AUDIO:
            await guest.sound.stream(
                opening, conn, permit=permit, say=status.say, task_status=status
            )
        else:
            raise RefusedError(f"the viewer does not provide {opening.service}")

    async def _folder(
        self, opening: Opening, conn: socket.socket, status: OpeningReply
    ) -> None:
        folders = self._host.folders
        if not isinstance(folders, StreamedFolders):
            raise RefusedError("this machine does not share folders by streams")
        await status.say()
        await folders.carry(opening, conn, task_status=status)

    async def _security_key(
        self, opening: Opening, conn: socket.socket, status: OpeningReply
    ) -> None:
        if self.record(opening.lease.record) is None:
            raise RefusedError(
                f"the viewer has no valid record '{opening.lease.record}'"
            )
        await status.say()
        await security_keys.carry(
            opening,
            conn,
            self.authority,
            self._shared_key,
            self._tools.session,
            task_status=status,
        )

    async def _carry_raw_sound(
        self,
        guest: Guest,
        opening: Opening,
        conn: socket.socket,
        status: OpeningReply,
        permit: Permit,
    ) -> None:
        """Carry a connection to the sound server unfiltered, as its record says."""
        await raw_stream(
            opening,
            conn,
            self._tools,
            permit=permit,
            quota=guest.sound.places,
            status=status,
        )

    # -- ends ---------------------------------------------------------------------

    async def _end_when_idle(self, guest: Guest) -> None:
        """Have the host power a disposable sandbox off when its last program has ended."""
        while True:
            await guest.idle.wait()
            if guest.lease.id not in self._guests:
                return
            if is_disposable(guest.lease, self.record(guest.lease.record)):
                break
            guest.idle = trio.Event()
        try:
            await self.power_off(guest.lease.id, reason="its last program has ended")
        except VitrailError as error:
            # The host cannot be asked now.  In the next epoch its agent says
            # hello without programs, and we come here again: of a machine that others
            # started, 'LeasePrograms' notes that it had one.
            await self._log.note(
                schema.SandboxFailed(
                    **event_log.of(guest.lease), step="power off", reason=str(error)
                )
            )

    async def power_off(
        self, lease: LeaseId, *, reason: str, grace: float = _GRACE
    ) -> None:
        """Stop a sandbox, by its agent or its host; return when its lease has ended."""
        guest, asked = self._guests.get(lease), False
        if guest is not None:
            guest.stopping = True
            asked = await guest.power_off()
        # No agent to ask inside: only the power button is left, and a guest
        # without an agent does not listen to that for long.
        short = grace if asked else min(grace, 1.0)
        try:
            await self._host.stop(lease, grace=short, reason=reason)
        except BaseException:
            if guest is not None:
                guest.stopping = False  # its host could not be asked
            raise
