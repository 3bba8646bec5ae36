"""The device methods of a broker's control socket."""

from __future__ import annotations

from broker.control import api
from broker.viewer.devices.desk import DeviceDesk
from broker.viewer.devices.report import answer_of, devices_answer


class DeviceControl:
    """Devices, for a role that hands them out."""

    _desk: DeviceDesk

    async def devices(self) -> api.DevicesAnswer:
        """Devices that are plugged in, and the sandbox that has each."""
        return await devices_answer(self._desk)

    async def attach_device(
        self, caller: api.Caller, request: api.DeviceAttachRequest
    ) -> api.DeviceAnswer:
        """Attach a device; returns when it is there."""
        del caller
        return answer_of(await self._desk.attach(request.port, request.sandbox))

    async def detach_device(
        self, caller: api.Caller, request: api.DeviceDetachRequest
    ) -> api.DeviceAnswer:
        """Take a device back."""
        del caller
        return answer_of(await self._desk.detach(request.port))
