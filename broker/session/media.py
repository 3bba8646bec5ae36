"""The user's sound, and pictures of cameras and screens.

A session child connects to the sound server or PipeWire, and starts a program for
pictures.
"""

from __future__ import annotations

import os
import socket

from broker.ipc.session import media_orders as m
from broker.session.connecting import connect_path
from broker.session.order_exchange import OrderExchange
from broker.session.sound import find_sound
from broker.session.video.camera import find_camera, pipewire_socket
from broker.session.video.pipewire_video import PictureSource, take_pictures
from broker.session.warrant_check import VerifiedPermit
from broker.wire.row import serves


@serves(m.CONNECT_SOUND)
def connect_sound(exchange: OrderExchange, _request: m.ConnectSound) -> None:
    """Lend the viewer a connection to the sound server.  Raises VitrailError, OSError."""
    with connect_path(find_sound()) as server:
        exchange.lend(server)


@serves(m.FIND_CAMERA)
def answer_camera(exchange: OrderExchange, _request: m.FindCamera) -> None:
    """Answer which camera the session prefers.  Raises SetupError, UpstreamError."""
    camera = find_camera()
    exchange.answer(m.FoundCamera(camera.title, camera.serial))


@serves(m.TAKE_CAMERA)
def take_camera(exchange: OrderExchange, request: m.TakeCamera) -> None:
    """Take pictures of a camera.  Raises VitrailError, OSError."""
    camera = find_camera(request.serial)
    source = PictureSource(f"target-object={camera.serial}", camera.shown)
    size = request.width, request.height
    with connect_path(pipewire_socket(os.environ)) as server:
        take_pictures(exchange, source, size, server, VerifiedPermit(exchange.permit))


@serves(m.TAKE_SCREEN)
def take_screen(exchange: OrderExchange, request: m.TakeScreen) -> None:
    """Take pictures of what the user shares.  Raises VitrailError, OSError."""
    # WebRTC takes no other form of screens.
    source = PictureSource(f"path={request.node}", steady=False, form="BGRx")
    with socket.socket(fileno=exchange.fds[0]) as server:
        take_pictures(exchange, source, (request.width, request.height), server)
