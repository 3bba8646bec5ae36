"""The folder methods of a broker's control socket."""

from __future__ import annotations

from broker.core.escape import printable
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.viewer.folders.desk import FolderDesk, SharedFolder


class FolderControl:
    """Shared folders."""

    def __init__(self, desk: FolderDesk) -> None:
        self._folders = desk

    @serves(methods.FOLDERS)
    async def folders(
        self, exchange: Exchange[api.FoldersAnswer], request: api.Nothing
    ) -> api.FoldersAnswer:
        """List the directories that sandboxes share."""
        del exchange, request
        return api.FoldersAnswer(
            folders=[_status(shared) for shared in self._folders.shared()]
        )

    @serves(methods.FOLDER_SHARE)
    async def share_folder(
        self, exchange: Exchange[api.FolderAnswer], request: api.FolderShareRequest
    ) -> api.FolderAnswer:
        """Share a directory with a sandbox; return when it is mounted."""
        shared = await self._folders.share(
            request.path,
            request.sandbox,
            write=bool(request.write),
            warrant=exchange.warrant,
        )
        return _answer(shared)

    @serves(methods.FOLDER_UNSHARE)
    async def unshare_folder(
        self, exchange: Exchange[api.FolderAnswer], request: api.FolderUnshareRequest
    ) -> api.FolderAnswer:
        """Take a directory back from a sandbox; return when it is unmounted."""
        del exchange
        shared = await self._folders.unshare(
            request.folder, request.sandbox, force=bool(request.force)
        )
        return _answer(shared)


def _inside(shared: SharedFolder) -> str:
    if shared.mounted is None:
        return ""
    # Of a folder that is streamed, the viewer alone knows it.
    return shared.mounted.path if shared.tag else shared.at or shared.mounted.path


def _status(shared: SharedFolder) -> api.FolderStatus:
    """Return a shared folder's row for ``brokerctl share``."""
    return api.FolderStatus(
        path=printable(str(shared.path), 400),
        sandbox=shared.lease.sandbox,
        inside=_inside(shared),
        write=shared.write,
        since=shared.since,
    )


def _answer(shared: SharedFolder) -> api.FolderAnswer:
    """Return a folder that was shared or taken back, for brokerctl."""
    return api.FolderAnswer(
        path=printable(str(shared.path), 400),
        sandbox=shared.lease.sandbox,
        inside=_inside(shared),
        write=shared.write,
    )
