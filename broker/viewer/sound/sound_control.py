"""``brokerctl audio`` and the panel's microphones: sound of a viewer's sandboxes."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from broker.core.errors import RefusedError
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.viewer.role import ViewerRole
from broker.viewer.sound.mixer import change_sound


@dataclass(frozen=True)
class SoundControl:
    """The sound of all guests of a viewer."""

    viewer: ViewerRole

    @serves(methods.SOUND)
    async def handle(
        self, exchange: Exchange[api.SoundAnswer], request: api.SoundRequest
    ) -> api.SoundAnswer:
        """List or change the sound of sandboxes that have connected to the sound server.

        Raises NotFoundError, RefusedError, SetupError.
        """
        del exchange
        await trio.lowlevel.checkpoint()
        if request.sandbox is not None:
            guests = self.viewer.named(request.sandbox)
        elif request == api.SoundRequest():
            guests = self.viewer.guests()
        else:
            raise RefusedError("the request does not name the sandbox to change")
        rows = [
            await change_sound(guest.sound, request)
            for guest in guests
            if guest.sound.connected
        ]
        rows.sort(key=lambda row: row.sandbox)
        return api.SoundAnswer(sandboxes=rows)
