"""The folder methods of a broker's control socket."""

from __future__ import annotations

from broker.control import api
from broker.core.escape import printable
from broker.viewer.folders.desk import FolderDesk, SharedFolder


class FolderControl:
    """Shared folders, for a role whose machine has both files and sandboxes."""

    _folders: FolderDesk

    async def folders(self) -> api.FoldersAnswer:
        """Directories that sandboxes have."""
        return api.FoldersAnswer(
            folders=[_status(shared) for shared in self._folders.shared()]
        )

    async def share_folder(
        self, caller: api.Caller, request: api.FolderShareRequest
    ) -> api.FolderAnswer:
        """Share a directory; returns when it is mounted."""
        del caller
        shared = await self._folders.share(
            request.path, request.sandbox, write=bool(request.write)
        )
        return _answer(shared)

    async def unshare_folder(
        self, caller: api.Caller, request: api.FolderUnshareRequest
    ) -> api.FolderAnswer:
        """Take a directory back; returns when it is unmounted."""
        del caller
        shared = await self._folders.unshare(
            request.folder, request.sandbox, force=bool(request.force)
        )
        return _answer(shared)


def _inside(shared: SharedFolder) -> str:
    return "" if shared.mounted is None else shared.mounted.path


def _status(shared: SharedFolder) -> api.FolderStatus:
    return api.FolderStatus(
        path=printable(str(shared.folder.path), 400),
        sandbox=shared.lease.sandbox,
        inside=_inside(shared),
        write=shared.write,
        since=shared.since,
    )


def _answer(shared: SharedFolder) -> api.FolderAnswer:
    return api.FolderAnswer(
        path=printable(str(shared.folder.path), 400),
        sandbox=shared.lease.sandbox,
        inside=_inside(shared),
        write=shared.write,
    )
