"""Devices as the control socket and ``brokerctl status`` show them."""

from __future__ import annotations

from broker.ipc.control import api
from broker.ipc.devices.messages import DeviceItem
from broker.viewer.devices.desk import DeviceDesk, Holding


async def devices_answer(desk: DeviceDesk) -> api.DevicesAnswer:
    """Return the host's plugged-in devices and their users, for the control socket.

    Raises SetupError, UpstreamError.
    """
    found = await desk.devices()
    held = {holding.item.number: holding for holding in desk.holdings()}
    return api.DevicesAnswer(
        devices=[_status(item, held.get(item.number)) for item in found.devices],
        strict=found.strict,
        problems=found.problems,
    )


def _status(item: DeviceItem, holding: Holding | None) -> api.DeviceStatus:
    return api.DeviceStatus(
        port=item.port,
        title=item.title,
        id=item.device_id,
        serial=item.serial,
        hash=item.digest,
        interfaces=item.interfaces,
        state=item.state,
        driver=item.driver,
        removable=item.removable,
        sandboxes=item.sandboxes,
        sandbox="" if holding is None else holding.lease.sandbox,
        attachment=item.attachment,
        backend="" if holding is None else holding.backend,
        since=None if holding is None else holding.since,
    )


def answer_of(holding: Holding) -> api.DeviceAnswer:
    """Return an attachment that has begun or ended, for the control socket."""
    return api.DeviceAnswer(
        port=holding.item.port,
        sandbox=holding.lease.sandbox,
        attachment=holding.attachment,
        backend=holding.backend,
        reason=holding.reason,
    )
