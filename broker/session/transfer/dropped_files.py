"""Files that the user has dropped on a sandbox's window.

The program that they were dragged from has registered them at the desktop's document
portal (``org.freedesktop.portal.FileTransfer``) under a key that cannot be guessed.  The
sandbox's worker has read the key from the drag; which files they are is asked of the
portal here, so that no worker chooses a file.  Source: the documentation of XDG Desktop
Portal.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.limits import clipboard as limits
from broker.ipc.session import file_orders as m
from broker.session.order_exchange import OrderExchange
from broker.session.read_warrant import FileTicket
from broker.session.transfer.chosen_files import (
    answer_found,
    named_file,
    writable_places,
)
from broker.wire.row import serves

_PORTAL = DBusAddress(
    "/org/freedesktop/portal/documents",
    "org.freedesktop.portal.Documents",
    "org.freedesktop.portal.FileTransfer",
)
_REPLY_SECONDS = 10.0
"""The portal may have to be started first."""
_UNKNOWN_KEY = "org.freedesktop.DBus.Error.AccessDenied"
_HINT = "install xdg-desktop-portal, or copy the files by 'brokerctl cp'"


@serves(m.FIND_DROPPED_FILES)
def find_dropped(exchange: OrderExchange, order: m.FindDroppedFiles) -> None:
    """Find the files of a key; answer with a ticket for them.  Raises VitrailError."""
    writable = writable_places(order.writable)
    paths = [named_file(path, writable) for path in _retrieved(order.key)]
    encoded = tuple(map(os.fsencode, paths))
    found = FileTicket(time.monotonic(), "drop", encoded, order.sandbox)
    answer_found(exchange, found, _size(paths))


def _size(paths: Sequence[str]) -> int | None:
    """Return the size of files in bytes; None: one of them is a directory."""
    facts = [Path(path).stat() for path in paths]
    plain = all(stat.S_ISREG(one.st_mode) for one in facts)
    return sum(one.st_size for one in facts) if plain else None


def _retrieved(key: str) -> list[str]:
    """Return the paths that the document portal has for a key.

    Raises SetupError without a portal, RefusedError for a key that it does not know.
    """
    call = new_method_call(_PORTAL, "RetrieveFiles", "sa{sv}", (key, {}))
    try:
        with open_dbus_connection() as bus:
            got = bus.send_and_get_reply(call, timeout=_REPLY_SECONDS)
    # KeyError: of the environment.
    except (KeyError, OSError) as error:
        why = printable(str(error) or type(error).__name__, 200)
        text = f"cannot ask the desktop's document portal about the files: {why}"
        raise SetupError(text, hint=_HINT) from error
    if got.header.message_type is not MessageType.method_return:
        name = str(got.header.fields.get(HeaderFields.error_name, ""))
        words = printable(" ".join(map(str, got.body)), 200)
        if "NotAllowed" in name or name == _UNKNOWN_KEY:
            raise RefusedError(
                f"the desktop's document portal has no files for this drop: {words}",
                hint="drag the files again",
            )
        raise SetupError(
            f"the desktop's document portal did not answer which files were dropped: {words}",
            hint=_HINT,
        )
    paths = got.body[0]
    # guard: number of files that are dropped
    if not 0 < len(paths) <= limits.CLIPBOARD_FILES:
        raise UpstreamError(
            f"{len(paths)} files were dropped; at most {limits.CLIPBOARD_FILES} are copied at once",
            hint="drag their directory instead",
        )
    return list(paths)
