"""In the worker: the sandbox's clipboard as the supervisor orders it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from broker.core import fdpass
from broker.core import worker_clipboard as messages
from broker.core.errors import InternalError

Tell = Callable[[messages.FromWorker], Awaitable[None]]


class WorkerClipboard:
    """All selections of the worker's sandbox."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    async def obey(self, order: messages.ToWorker, fds: Sequence[int]) -> None:
        """Do it, and answer; the descriptors are ours to close."""
        if len(fds) != isinstance(
            order, messages.Rewrite | messages.Offer | messages.Export
        ):
            raise InternalError("a clipboard order without its descriptor")
        fdpass.close_all(fds)
        match order:
            case messages.AskTypes(transfer):
                await self._tell(messages.ClipboardTypes(transfer, []))
            case messages.ReadType(transfer):
                await self._tell(messages.ClipboardFailed(transfer, "no selection"))
            case messages.Rewrite(transfer):
                await self._tell(messages.ClipboardFailed(transfer, "not possible"))
            case messages.Offer(transfer):
                await self._tell(messages.OfferRefused(transfer, "not possible here"))
            case messages.Export(transfer):
                await self._tell(messages.Exported(transfer, "not possible here"))
            case messages.Chords() | messages.StopRead() | messages.Withdraw():
                pass
