"""The device methods of a broker's control socket."""

from __future__ import annotations

from broker.core.errors import RefusedError
from broker.core.services import CAMERA_USE, SCREEN_USE
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.viewer.camera import Cameras
from broker.viewer.devices.desk import DeviceDesk
from broker.viewer.devices.report import answer_of, devices_answer
from broker.viewer.pipewire_video import VideoUses
from broker.viewer.screens import ScreenShares


class DeviceControl:
    """Devices, for a role that hands them out."""

    def __init__(
        self, desk: DeviceDesk, cameras: Cameras, screens: ScreenShares
    ) -> None:
        self._desk = desk
        self._videos: dict[str, VideoUses] = {CAMERA_USE: cameras, SCREEN_USE: screens}

    @serves(methods.DEVICES)
    async def devices(
        self, exchange: Exchange[api.DevicesAnswer], request: api.Nothing
    ) -> api.DevicesAnswer:
        """Devices that are plugged in, and the sandbox that has each."""
        del exchange, request
        return await devices_answer(self._desk)

    @serves(methods.DEVICE_ATTACH)
    async def attach_device(
        self, exchange: Exchange[api.DeviceAnswer], request: api.DeviceAttachRequest
    ) -> api.DeviceAnswer:
        """Attach a device; returns when it is there."""
        del exchange
        return answer_of(await self._desk.attach(request.port, request.sandbox))

    @serves(methods.DEVICE_DETACH)
    async def detach_device(
        self, exchange: Exchange[api.DeviceAnswer], request: api.DeviceDetachRequest
    ) -> api.DeviceAnswer:
        """Take a device back from its sandbox, by port or kind. Raises RefusedError."""
        del exchange
        kind, colon, sandbox = request.port.partition(":")
        if (users := self._videos.get(kind + colon)) is not None:
            use = await users.take_back(sandbox)
            if use is None:
                raise RefusedError(f"this sandbox is not using {users.noun}")
            return api.DeviceAnswer(
                port=request.port,
                sandbox=use.lease.sandbox,
                attachment="",
                backend="",
            )
        return answer_of(await self._desk.detach(request.port))
