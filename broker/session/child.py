"""A child of the starter that carries out one order of the viewer, and ends."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Sequence

from broker.core.errors import UpstreamError, VitrailError
from broker.helpers.process.process_name import set_name
from broker.ipc import fdpass
from broker.ipc.session import bus, files, folders, media, messages, programs, services
from broker.session.errand import Errand

_PR_SET_PDEATHSIG = 1


def become_session_child(key: bytes, fds: Sequence[int], host: int = -1) -> None:
    """Carry out the order that comes on the first of these descriptors.

    ``host``: see ``Errand``.
    """
    channel_fd, words = fds
    os.dup2(words, 2)
    os.close(words)
    set_name("vitrail-session")
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # The starter ignores what a terminal sends to the group; a program must not.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    with socket.socket(fileno=channel_fd) as channel:
        got = fdpass.receive(channel, messages.MESSAGE_BYTES, messages.DESCRIPTORS)
        if not got.data:
            return
        errand = Errand(channel, key, list(got.fds), host)
        try:
            _carry_out(errand, messages.decode_order(got.data))
        except VitrailError as error:
            _fail(channel, error)
        except OSError as error:
            _fail(channel, UpstreamError(f"your session: {error.strerror}"))


def _fail(channel: socket.socket, error: VitrailError) -> None:
    failed = messages.NotCarried(
        type(error).__name__, error.message[:4000], error.hint[:4000], error.where
    )
    fdpass.send(channel, messages.encode(failed))


def _carry_out(errand: Errand, order: messages.SessionOrder) -> None:
    """Carry out an order.

    Imported here: a child needs one of these modules, and the starter none.
    """
    match order:
        case (
            media.ConnectSound()
            | media.FindCamera()
            | media.ShowFrame()
            | media.TakeCamera()
            | media.TakeScreen()
        ):
            from broker.session.media import carry_out_media

            carry_out_media(errand, order)
        case services.ConnectPort():
            from broker.session.services import carry_out_service

            carry_out_service(errand, order)
        case files.OpenUrl():
            from broker.session.files import carry_out_file

            carry_out_file(errand, order)
        case (
            folders.OpenFolder()
            | folders.GiveFolder()
            | folders.ServeFolder()
            | folders.ReadChords()
            | folders.CheckSettings()
            | folders.DrawIcons()
            | folders.DrawLetters()
        ):
            from broker.session.folders import carry_out_folder

            carry_out_folder(errand, order)
        case bus.ConnectBus():
            from broker.session.bus import carry_out_bus

            carry_out_bus(errand, order)
        case programs.StartForkServer():
            from broker.session.programs import carry_out_program

            carry_out_program(errand, order)
