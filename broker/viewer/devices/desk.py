"""Which sandbox gets a device: when it is plugged in, and on request.

Each attachment is one block inside ``Permits.permit``: it begins after the
verdict, ends when the permission does (rules that changed, a time that is
over), when the device is pulled out or changes, when the sandbox stops, and when
the user takes it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Asked, ChosenRequest, Permit, Request
from broker.core.errors import RefusedError, VitrailError
from broker.core.lease import Lease
from broker.core.names import LeaseId
from broker.core.services import DEVICE
from broker.core.stderr_log import isolated, log_exception
from broker.ipc.audit import schema
from broker.ipc.authority import ShownRule
from broker.ipc.devices.messages import DeviceItem, Devices
from broker.ipc.host_viewer import DeviceSource, TaskStatus, first_of
from broker.viewer.authority.held_permit import HeldPermit, take_back_all
from broker.viewer.authority.interface import Permits
from broker.viewer.devices.choices import DeviceChoices
from broker.viewer.sandboxes.named_lease import one_lease
from policy.records.device import DeviceFacts, take_interface

Notify = Callable[[str, str], None]
_AUTOMATIC = frozenset({"auto", "required"})


@dataclass(eq=False)
class Holding(HeldPermit):
    """A device that a sandbox has, or is about to have."""

    item: DeviceItem
    backend: str = ""
    """Empty until it is attached."""
    attachment: str = ""


class Candidates(NamedTuple):
    """Sandboxes that would get a device automatically."""

    automatic: list[Lease]
    asked: list[Lease]


# A plugged device is asked about in the dialog, not by a notification. A notification
# with buttons ("attach to work", "refuse") would be quieter. It was rejected: a
# notification server takes a click at once, wherever the bubble appears, and a sandbox
# that moves its window there, or a device that is plugged while the user clicks, could
# collect a yes. It does not say which button was pressed for which bubble in a way that
# another program of the session could not imitate. The dialog lists the sandboxes that
# may have the device, and Deny, takes no click before the user can have read it, and
# shows the user's phrase. Notifications tell what happened: attached, refused by which
# line, taken back.
class DeviceDesk:
    """All devices and who has them."""

    def __init__(
        self,
        *,
        source: DeviceSource,
        decider: Permits,
        log: event_log.EventLog,
        leases: Callable[[], Iterable[Lease]],
    ) -> None:
        self._source = source
        self._decider = decider
        self._log = log
        self._leases = leases
        self._holdings: dict[int, Holding] = {}
        self._known: set[int] = set()
        self._choices = DeviceChoices(decider, self._chosen)
        self._again = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Follow hot-plug events until cancelled; then detach every device."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                changed, self._again = self._source.changed, trio.Event()
                with isolated():
                    try:
                        await self._look()
                    except VitrailError:
                        # Nothing to see without vitrail-devices; it says so when asked.
                        self._known.clear()
                await first_of(changed, self._again)

    async def _look(self) -> None:
        """List the host's devices; end unplugged ones, and decide about new ones."""
        items = (await self._source.devices()).devices
        there = {item.number for item in items}
        self._known &= there
        for number, holding in self._holdings.items():
            if number not in there:
                holding.end("unplugged")
        self._choices.keep_only(there)
        for item in items:
            if item.number not in self._known and item.state == "plugged":
                self._known.add(item.number)
                await self._consider(item)

    async def candidates(self, item: DeviceItem) -> Candidates:
        """Return the sandboxes that rules give a device to, or ask about it."""
        found = Candidates([], [])
        # guard: records bound attached devices
        leases = [x for x in self._leases() if {x.sandbox, "*"} & {*item.sandboxes}]
        answers = await self._decider.preview([request_of(item, x) for x in leases])
        for lease, answer in zip(leases, answers, strict=True):
            if answer is None or answer.rule is None:
                continue
            if answer.verdict == "allow" and answer.rule.attach in _AUTOMATIC:
                found.automatic.append(lease)
            declined = self._choices.is_declined(item.number, lease)
            # guard: a declined device is not asked about again
            if answer.verdict == "ask" and not declined:
                found.asked.append(lease)
        return found

    async def _consider(self, item: DeviceItem) -> None:
        """Decide which sandbox gets a new device: attach it, or ask the user."""
        if item.number in self._holdings:
            return
        automatic, asked = await self.candidates(item)
        if item.number in self._holdings:  # attached meanwhile
            return
        wanted = automatic or asked
        # guard: a device that several sandboxes want is given to none
        if len(wanted) == 1:
            assert self._nursery is not None
            self._nursery.start_soon(
                self._attach_or_notify if automatic else self._asked, item, wanted[0]
            )
        elif wanted:
            assert self._nursery is not None
            requests = [request_of(item, lease) for lease in wanted]
            self._nursery.start_soon(self._choices.ask, item, requests)

    async def _chosen(self, item: DeviceItem, choice: ChosenRequest) -> None:
        """Attach a device to the sandbox that the user chose, unless it has stopped."""
        lease = choice.request.lease
        # guard: chosen and stopped meanwhile
        if lease in self._leases():
            await self._attach_or_notify(item, lease, choice.asked)

    async def _asked(self, item: DeviceItem, lease: Lease) -> None:
        """Have a device permitted and attached; note it as declined if it is not."""
        if not await self._attach_or_notify(item, lease):
            # guard: a device that is declined for one sandbox is not asked about again
            self._choices.decline(item.number, [lease])

    async def _attach_or_notify(
        self, item: DeviceItem, lease: Lease, chosen: Asked | None = None
    ) -> bool:
        """Attach a device; return whether it was attached, or was not refused."""
        try:
            await self._attach(item, lease, chosen)
        except VitrailError as error:
            # A denial is reported by the decider; a failure is reported here.
            if isinstance(error, RefusedError):
                return False
            self._decider.notify(
                f"Vitrail: cannot attach {item.title} to {lease.sandbox}", str(error)
            )
        except Exception as error:  # noqa: BLE001 -- one device's mistake
            log_exception(error)
        return True

    async def _attach(
        self, item: DeviceItem, lease: Lease, chosen: Asked | None = None
    ) -> Holding:
        """Start to hold a device for a sandbox; return once it is attached.

        ``chosen``: the user's answer, if this sandbox was chosen among several.
        """
        assert self._nursery is not None
        holding: Holding = await self._nursery.start(self._hold, item, lease, chosen)
        return holding

    async def _hold(
        self,
        item: DeviceItem,
        lease: Lease,
        chosen: Asked | None,
        *,
        task_status: trio.TaskStatus[Holding],
    ) -> None:
        """Hold one device attached by a permit; ``started`` when it is attached."""
        if item.number in self._holdings:
            raise RefusedError(
                f"the device in port {item.port} is already in use by a sandbox",
                hint=f"to detach the device, run 'brokerctl device detach {item.port}'",
            )
        self._choices.withdraw(item.number)
        holding = self._holdings[item.number] = Holding(lease, item)
        request, carry = request_of(item, lease), partial(self._carry, holding)
        try:
            await holding.hold(
                self._decider, request, carry, task_status, chosen=chosen
            )
        finally:
            del self._holdings[item.number]

    async def _carry(
        self, holding: Holding, _: Permit, status: trio.TaskStatus[Holding]
    ) -> None:
        """Attach the device, record that, and wait for its end."""
        item, lease = holding.item, holding.lease
        name = f"usb {item.device_id}"
        began = trio.current_time()
        async with self._source.attached(item.number, lease) as handed:
            holding.backend, holding.attachment = handed.backend, handed.name
            try:
                await self._log.require(
                    schema.DeviceAttached(
                        **event_log.of(lease),
                        service=DEVICE,
                        object=handed.name,
                        device=name,
                        backend=handed.backend,
                        detail={"port": item.port, "hash": item.digest},
                    )
                )
                status.started(holding)
                await handed.ended.wait()
                holding.reason = holding.reason or handed.reason
            finally:
                with trio.CancelScope(shield=True):
                    await self._log.note(
                        schema.DeviceDetached(
                            **event_log.of(lease),
                            service=DEVICE,
                            object=handed.name,
                            device=name,
                            outcome="detached",
                            reason=holding.reason or "its permission was revoked",
                            seconds=trio.current_time() - began,
                        )
                    )

    # -- on request --------------------------------------------------------------------

    async def devices(self) -> Devices:
        """Return all devices.  Raises SetupError, UpstreamError."""
        return await self._source.devices()

    def holdings(self) -> list[Holding]:
        """Return the devices that sandboxes hold, oldest first."""
        return [h for h in self._holdings.values() if h.backend]

    async def attach(self, where: str, sandbox: str) -> Holding:
        """Attach the device in a port to a sandbox; returns when it is there.

        Raises RefusedError, UpstreamError, SetupError.
        """
        lease = one_lease(sandbox, self._leases())
        return await self._attach(await self._item(where), lease)

    async def _item(self, where: str) -> DeviceItem:
        """Return the device in a port, or of a number or attachment.

        Raises RefusedError.
        """
        items = (await self._source.devices()).devices
        for item in items:
            if where in {item.port, str(item.number), item.attachment}:
                return item
        raise RefusedError(
            f"no device or port '{where}' is known",
            hint=self._source.elsewhere
            or "to list the devices, run 'brokerctl device list'",
        )

    async def detach(self, where: str) -> Holding:
        """Take a device back; return when it is detached.  Raises RefusedError."""
        for holding in list(self._holdings.values()):
            if where in {holding.item.port, holding.attachment}:
                await holding.take_back("detached on request")
                return holding
        raise RefusedError(
            f"no device is attached as '{where}'",
            hint="to list attached devices, run 'brokerctl device list'",
        )

    async def lease_ended(self, lease: LeaseId) -> None:
        """Take a stopped sandbox's devices back."""
        # guard: devices end with the sandbox
        await take_back_all(self._holdings.values(), lease)

    async def lease_begun(self, lease: Lease) -> None:
        """Check that the devices that rules require for a sandbox are plugged in.

        Raises RefusedError when one is missing: the sandbox does not start.
        """
        missing = await self.required(lease)
        if not missing:
            return
        try:
            items = (await self._source.devices()).devices
        except VitrailError as error:
            raise RefusedError(
                f"cannot look for the device that {missing} requires: {error}"
            ) from error
        if not await self._has_required(items, lease):
            raise RefusedError(
                f"cannot start '{lease.sandbox}' without a device that {missing} requires",
                hint="plug the device in; to list the devices, run 'brokerctl device list'",
            )

    async def required(self, lease: Lease) -> str:
        """Return the place of a rule that requires a device for a sandbox, or ''."""
        rules = await self._decider.rules_about(DEVICE, lease.sandbox)
        return next((rule.where for rule in rules if _requires(rule)), "")

    async def _has_required(self, items: Iterable[DeviceItem], lease: Lease) -> bool:
        """Return whether a plugged-in device satisfies the rule that requires one."""
        plugged = [request_of(x, lease) for x in items if x.state == "plugged"]
        return any(
            answer is not None
            and answer.verdict == "allow"
            and answer.rule is not None
            and _requires(answer.rule)
            for answer in await self._decider.preview(plugged)
        )

    def look_again(self) -> None:
        """Consider unattached devices again: a sandbox runs, or rules changed."""
        self._known &= set(self._holdings)
        self._again.set()


def _requires(rule: ShownRule) -> bool:
    return rule.action == "allow" and rule.attach == "required"


def facts_of(item: DeviceItem) -> DeviceFacts:
    """Return the facts about a device that rules can match."""
    kinds = (take_interface(kind) for kind in item.interfaces)
    return DeviceFacts(
        id=item.device_id,
        serial=item.serial,
        port=item.port,
        hash=item.digest,
        interfaces=tuple(kind for kind in kinds if kind is not None),
    )


def request_of(item: DeviceItem, lease: Lease) -> Request:
    """Return the permit request for the use of a device."""
    return Request(
        lease=lease,
        service=DEVICE,
        argument=f"+{item.port}",
        device=facts_of(item),
        claims=(("device", item.title),),
        settled=True,
        counts_bytes=False,
    )
