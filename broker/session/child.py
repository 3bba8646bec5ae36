"""A child of the starter that carries out one order of the viewer, and ends."""

from __future__ import annotations

import importlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from broker.core.errors import InternalError, UpstreamError, VitrailError
from broker.core.files.path_errors import place_of
from broker.helpers.compositor_socket import adopt_display
from broker.helpers.forked_part import end_with_parent
from broker.helpers.process.process_name import set_name
from broker.ipc.session import bus_orders as bus
from broker.ipc.session import display_orders as display
from broker.ipc.session import file_orders as files
from broker.ipc.session import folder_orders as folders
from broker.ipc.session import media_orders as media
from broker.ipc.session import program_orders as programs
from broker.ipc.session import service_orders as services
from broker.ipc.session.order_rows import ROWS
from broker.session.order_exchange import Handler, OrderExchange
from broker.session.used_warrants import UsedWarrants
from broker.session.warrant_check import WarrantCheck
from broker.wire.calls import prepare_decoders
from broker.wire.row import AnyRow, row_served_by

MODULES: Final[Mapping[str, tuple[AnyRow, ...]]] = MappingProxyType(
    {
        "broker.session.broker_programs": (
            programs.START_FORK_SERVER,
            programs.MEASURE_PROCESSES,
            programs.REPORT_STATE,
        ),
        "broker.session.calls": (services.START_SERVICE,),
        "broker.session.display": (
            display.FIND_COMPOSITOR,
            display.READ_CHORDS,
            display.DRAW_LETTERS,
        ),
        "broker.session.folders.shared_folder": (
            folders.OPEN_FOLDER,
            folders.OPEN_RECORD_FOLDER,
            folders.CHECK_SETTINGS,
            folders.DRAW_ICONS,
        ),
        "broker.session.loopback_ports": (services.CONNECT_PORT, services.LISTEN_PORT),
        "broker.session.media": (
            media.CONNECT_SOUND,
            media.FIND_CAMERA,
            media.TAKE_CAMERA,
            media.TAKE_SCREEN,
        ),
        "broker.session.printing": (files.FIND_USUAL_PRINTER, files.PRINT_DOCUMENT),
        "broker.session.video.screens": (media.SHOW_FRAME, media.SHOW_BANNER),
        "broker.session.secrets": (services.ASK_SECRET,),
        "broker.session.security_keys.key_device": (media.OPEN_SECURITY_KEY,),
        "broker.session.session_bus_filter": (bus.CONNECT_BUS, bus.CONNECT_SCREENS),
        "broker.session.ssh.agent_use": (services.USE_AGENT,),
        "broker.session.transfer.chosen_files": (
            files.FIND_NAMED_FILES,
            files.CHOOSE_ON_DESKTOP,
        ),
        "broker.session.transfer.dropped_files": (files.FIND_DROPPED_FILES,),
        "broker.session.transfer.files_program": (
            files.SEND_FILES,
            files.SEND_DROPPED_FILES,
            files.EDIT_FILE,
            files.SAVE_FILE,
            files.STORE_FILES,
            files.KEEP_PAGES,
        ),
        "broker.session.transfer.links": (
            files.OPEN_ADDRESS,
            files.OPEN_NAMED_ADDRESS,
        ),
    }
)
"""The first rows of orders, by the modules that serve them: a child imports only one."""
_PRELOADED: Final = ("broker.session.broker_programs", "broker.session.display")
"""Modules of orders that each box and each status needs, and that take little memory."""


def preload() -> None:
    """Load in the starter what its children would load one by one."""
    for module in _PRELOADED:
        importlib.import_module(module)
    prepare_decoders(ROWS.values())


def become_session_child(
    key: bytes, fds: Sequence[int], host: int, used: UsedWarrants
) -> None:
    """Carry out the order that comes on the first of these descriptors.

    ``host``: see ``OrderExchange``; ``used``: see ``WarrantCheck``.
    """
    channel_fd, words = fds
    os.dup2(words, 2)
    os.close(words)
    if host >= 0:
        # guard: a program of an order has no socket of the host's
        os.set_inheritable(host, False)  # noqa: FBT003 -- os has no name for it
    set_name("vitrail-session")
    end_with_parent()
    # The starter ignores what a terminal sends to the group; a program must not.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    with socket.socket(fileno=channel_fd) as channel:
        exchange = OrderExchange(channel, WarrantCheck(key, used), host)
        try:
            exchange.serve_next(load_handler)
        except VitrailError as error:
            exchange.fail(error)
        except OSError as error:
            exchange.fail(failed_operation(error))


def failed_operation(error: OSError) -> UpstreamError:
    """Return the error of an order that the kernel did not let this child carry out."""
    place = place_of(error)
    text = f"{place}: {error.strerror}" if place else error.strerror or str(error)
    return UpstreamError(f"an operation in your session failed: {text}")


def load_handler(row: AnyRow) -> Handler | None:
    """Return the handler of an order's first row; None for a row that follows another.

    What takes megabytes is loaded by a child that needs it; the rest is the starter's.
    """
    module = next((name for name, rows in MODULES.items() if row in rows), "")
    if not module:
        return None
    if row is not programs.START_FORK_SERVER:  # its keepers look for themselves
        adopt_display()
    for handler in vars(importlib.import_module(module)).values():
        if row_served_by(handler) is row:
            found: Handler = handler
            return found
    raise InternalError(f"{module} does not serve {row.name}")
