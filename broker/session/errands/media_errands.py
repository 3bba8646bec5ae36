"""The user's sound, cameras, screens and security keys.

A session child connects to the sound server or PipeWire, starts a program for pictures
or for a frame, or opens a security key.
"""

from __future__ import annotations

import os
import socket

import msgspec

from broker.core.services import AUDIO, CAMERA, SECURITY_KEY
from broker.ipc.session import media_orders as m
from broker.session.camera import find_camera, pipewire_socket
from broker.session.connecting import connect_path
from broker.session.errand import Errand
from broker.session.pipewire_video import PictureSource, take_pictures
from broker.session.screens import show_banner, show_frame
from broker.session.security_keys.key_device import serve_key
from broker.session.sound import find_sound


def carry_out_media(errand: Errand, order: m.MediaOrder) -> None:
    """Carry out an order about sound, cameras, screens or keys.

    Raises VitrailError, OSError.
    """
    match order:
        case m.ConnectSound():
            # guard: the sound server is reached with a permit for sound
            permit = errand.permit(order.warrant, {AUDIO})
            with connect_path(find_sound()) as server:
                errand.lend(server, permit)
        case m.FindCamera():
            # guard: cameras are named to who may use one
            errand.permit(order.warrant, {CAMERA})
            camera = find_camera()
            found = m.FoundCamera(camera.title, camera.serial)
            errand.answer(msgspec.msgpack.encode(found))
        case m.TakeCamera():
            # guard: a camera is opened with a permit for cameras
            permit = errand.permit(order.warrant, {CAMERA})
            camera = find_camera(order.serial)
            source = PictureSource(f"target-object={camera.serial}", camera.shown)
            size = order.width, order.height
            with connect_path(pipewire_socket(os.environ)) as server:
                take_pictures(errand, source, size, server, permit)
        case m.OpenSecurityKey():
            # guard: a security key is opened with a permit for it
            permit = errand.permit(order.warrant, {SECURITY_KEY}, ahead=True)
            serve_key(errand, permit, *errand.descriptors(2))
        case m.ShowBanner():
            show_banner(errand, order)
        case m.ShowFrame():
            show_frame(errand, order)
        case m.TakeScreen():
            (remote,) = errand.descriptors(1)
            # WebRTC takes no other form of screens.
            source = PictureSource(f"path={order.node}", steady=False, form="BGRx")
            with socket.socket(fileno=remote) as server:
                take_pictures(errand, source, (order.width, order.height), server)
