"""The HTTP API of a VMM: one connection for each request, with a deadline."""

from __future__ import annotations

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm.monitors.api_socket import ApiSocket
from broker.host.vmm.monitors.http import ReplyReader, VmmReply, VmmRequest, encode

_READ_BYTES = 1 << 14


class ApiClient(ApiSocket):
    """Speaks with the API of one VMM."""

    async def call(
        self, request: VmmRequest, *, deadline: float = limits.VMM_ANSWER_SECONDS
    ) -> VmmReply:
        """Send a request to the VMM and return its reply, which may be a refusal.

        Raises UpstreamError when the VMM is gone, silent for ``deadline`` seconds, or
        replies something that is not HTTP.
        """
        who = self.vmm.role
        try:
            # guard: a silent VMM is not waited for
            with trio.move_on_after(deadline):
                return await self._exchange(request)
        except (OSError, trio.BrokenResourceError) as error:
            raise UpstreamError(f"cannot send {request} to {who}: {error}") from error
        except UpstreamError as error:
            raise UpstreamError(f"{request}: {error.message}") from error
        raise UpstreamError(f"{who} did not answer {request} within {deadline:g} s")

    async def _exchange(self, request: VmmRequest) -> VmmReply:
        """Exchange one HTTP request and reply with the VMM.  Raises UpstreamError."""
        conn = self.connected()
        if conn is None:
            raise UpstreamError(f"{self.vmm.role} does not accept connections")
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(conn))
        async with stream:
            await stream.send_all(encode(request))
            reader = ReplyReader()
            while True:
                untrusted_data = await stream.receive_some(_READ_BYTES)
                if not untrusted_data:
                    raise UpstreamError(f"{self.vmm.role} closed the connection")
                reply = reader.feed(bytes(untrusted_data))
                if reply is not None:
                    return reply
