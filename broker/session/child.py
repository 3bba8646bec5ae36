"""A child of the starter that carries out one order of the viewer, and ends."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence

from broker.core.errors import UpstreamError, VitrailError
from broker.core.files.path_errors import place_of
from broker.helpers.compositor_socket import adopt_display
from broker.helpers.forked_part import end_with_parent
from broker.helpers.process.process_name import set_name
from broker.ipc.session import bus_orders as bus
from broker.ipc.session import display_orders as display
from broker.ipc.session import file_orders as files
from broker.ipc.session import folder_orders as folders
from broker.ipc.session import media_orders as media
from broker.ipc.session import order_messages as messages
from broker.ipc.session import service_orders as services
from broker.ipc.session.program_orders import StartForkServer
from broker.session.broker_programs import carry_out_program
from broker.session.errand import Errand
from broker.session.errands.display_errands import carry_out_display
from broker.session.errands.service_errands import carry_out_service
from broker.session.used_warrants import UsedWarrants


def become_session_child(
    key: bytes, fds: Sequence[int], host: int, used: UsedWarrants
) -> None:
    """Carry out the order that comes on the first of these descriptors.

    ``host``, ``used``: see ``Errand``.
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
        errand = Errand(channel, key, host=host, used=used)
        try:
            order = errand.next()
            if order is not None:
                _carry_out(errand, order)
        except VitrailError as error:
            errand.fail(error)
        except OSError as error:
            errand.fail(failed_operation(error))


def failed_operation(error: OSError) -> UpstreamError:
    """Return the error of an order that the kernel did not let this child carry out."""
    place = place_of(error)
    text = f"{place}: {error.strerror}" if place else error.strerror or str(error)
    return UpstreamError(f"an operation in your session failed: {text}")


def _carry_out(errand: Errand, order: messages.SessionOrder) -> None:
    """Carry out one order in this child, by the module for its kind.

    What takes megabytes is loaded by a child that needs it; the rest is the starter's.
    """
    if not isinstance(order, StartForkServer):  # its keepers look for themselves
        adopt_display()
    if isinstance(order, media.MediaOrder):
        from broker.session.errands.media_errands import carry_out_media

        carry_out_media(errand, order)
    elif isinstance(order, services.ServiceOrder):
        carry_out_service(errand, order)
    elif isinstance(order, files.FileOrder):
        from broker.session.transfer.file_errands import carry_out_file

        carry_out_file(errand, order)
    elif isinstance(order, folders.FolderOrder):
        from broker.session.folders.folder_errands import carry_out_folder

        carry_out_folder(errand, order)
    elif isinstance(order, bus.BusOrder):
        from broker.session.session_bus_filter import carry_out_bus

        carry_out_bus(errand, order)
    elif isinstance(order, display.DisplayOrder):
        carry_out_display(errand, order)
    else:
        carry_out_program(errand, order)
