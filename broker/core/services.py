"""The port table: one well-known vsock port for each service.

Services are named as Qubes names them.  A separate port for each service
lets the host refuse before a guest's first byte is read, and never parse one.

The host listens on these ports, the viewer serves what arrives, and the authority
decides about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from broker.core.names import ServiceName

AGENT = ServiceName("vitrail.Agent")
DISPLAY = ServiceName("vitrail.Display")

WAYLAND_DOOR = ServiceName("wayland-0")
"""Where a container finds the display service without waypipe: connections to
it are Wayland's own, with their descriptors.  On one machine only."""

RESERVED = "vitrail."
"""Services of this name are the broker's own."""

AUDIO = ServiceName("vitrail.Audio")

MICROPHONE = ServiceName("vitrail.AudioInput")
"""What is recorded, in a connection of ``AUDIO``; it has no port."""

DEVICE = ServiceName("vitrail.Device")
"""A guest's connection that waits for a device; the kernels speak usbip over it."""

SECURITY_KEY = ServiceName("vitrail.SecurityKey")
"""A guest's FIDO reports; each use of the user's key is asked about."""

OPEN_URL = ServiceName("vitrail.OpenURL")
OPEN_FILE = ServiceName("vitrail.OpenFile")
FILE_COPY = ServiceName("vitrail.FileCopy")
CALL = ServiceName("vitrail.Call")
"""A service of another sandbox: a stream between two programs, named by the request."""

FOLDER = ServiceName("vitrail.Folder")
"""A directory of the user's, decided when it is shared.  A guest on another machine has a
connection for each, which begins with the number of its place."""

BLOCK = ServiceName("vitrail.Block")
"""An image of the user's as a disk of a micro VM, by its record; it has no port."""

TRANSFERS = frozenset({OPEN_URL, OPEN_FILE, FILE_COPY, CALL})
"""Services whose requests are read before they are decided about."""

TCP = ServiceName("vitrail.Tcp")
"""A connection to a TCP port of a sandbox's loopback, or of the user's; a sandbox asks
for it on the port of ``CALL``."""

SSH_AGENT = ServiceName("vitrail.SshAgent")
"""The user's ssh keys, or those of a sandbox: each use is decided.  A sandbox asks for it
on the port of ``CALL``; a box has a separate socket for programs that know an agent."""

SECRET = ServiceName("vitrail.Secret")
"""One secret of the user's, or of a sandbox that keeps them, by its name; on the port of
``CALL``, too."""

SETTINGS = ServiceName("vitrail.Settings")
"""How the user's desktop looks; on the port of ``CALL``, too."""

CLIPBOARD_PASTE = ServiceName("vitrail.ClipboardPaste")
"""What the user copies or drags from one sandbox or their own programs to another; it has
no port."""
FILE_DIALOG = ServiceName("vitrail.FileDialog")
"""The desktop's file chooser: what the user chooses there is copied; on the port of
``CALL``, too."""

PRINT = ServiceName("vitrail.Print")
"""Pages of a document, on a printer of the desktop; on the port of ``CALL``, too."""

CAMERA = ServiceName("vitrail.Camera")
"""Pictures of the user's camera; on the port of ``CALL``, too."""
CAMERA_USE = "camera:"
"""Before a sandbox's name: its use of the camera among its devices."""
SCREEN_SHARE = ServiceName("vitrail.ScreenShare")
"""Pictures of a screen or window that the user chooses, or of the sandbox's own windows;
on the port of ``CALL``, too."""
SCREEN_USE = "screen:"
"""As ``CAMERA_USE``, for a screen."""
NOTIFICATION = ServiceName("vitrail.Notification")
"""Notifications on the desktop; on the port of ``CALL``, too."""
TRAY = ServiceName("vitrail.Tray")
"""Icons in the desktop's panel; on the port of ``CALL``, too."""

NETWORK = ServiceName("vitrail.Network")
"""A stream of a sandbox's frame filter, which the host starts; it has no port, so no
guest opens one."""

REPORTED_BY_AUTHORITY = frozenset(
    {AGENT, DISPLAY, AUDIO, MICROPHONE, DEVICE, SECURITY_KEY, PRINT}
)
"""Services of which the authority notifies the user of a refusal.  For each other one
(a paste, a share, a call), the viewer reports the outcome to the user or to the program
that asked."""

PORTS: Mapping[ServiceName, int] = MappingProxyType(
    {
        AGENT: 6500,
        DISPLAY: 6501,
        AUDIO: 6502,
        DEVICE: 6503,
        SECURITY_KEY: 6504,
        OPEN_URL: 6510,
        OPEN_FILE: 6511,
        FILE_COPY: 6512,
        CALL: 6513,
        FOLDER: 6515,
    }
)
"""Service to vsock port.  Above 1023, so that an unprivileged broker may
listen; below 2**16, which every hybrid-vsock implementation can write."""

LINK_PORTS: Mapping[ServiceName, int] = MappingProxyType({**PORTS, NETWORK: 6516})
"""As ``PORTS``, in the messages by which a link's streams begin."""

SERVICES: Mapping[int, ServiceName] = MappingProxyType(
    {port: service for service, port in LINK_PORTS.items()}
)

LOW_PORTS: Mapping[ServiceName, int] = MappingProxyType(
    {service: port - 6000 for service, port in PORTS.items()}
)
"""The same services on ports that need CAP_NET_BIND_SERVICE, vsock(7): no other
user's program can listen there.  In addition, where the broker may."""

LINK_PORT = 6499
"""Where a viewer broker listens for its host, on a vsock."""
PAIRING_PORT = 6498
"""Where 'brokerctl pair' listens, so that it need not share with a broker."""

CID_ANY = 0xFFFFFFFF
NEVER_PEERS = frozenset({0, 1, 2, CID_ANY})
"""CIDs that are never a sandbox: hypervisor, loopback, host, ANY (vsock(7))."""
FIRST_CID = 3

# Chromium asks the portal by itself; GTK and Qt ask it only where a variable says so, and
# have no dialog then if it is not there.  So a program has them where each of these calls
# may be allowed.
PORTAL_CALLS: Final = ((FILE_DIALOG, "+open"), (FILE_DIALOG, "+save"), (PRINT, "+"))
"""Services and arguments of programs whose dialogs are the portal's."""
PORTAL_VARIABLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "GTK_USE_PORTAL": "1",
        "GDK_DEBUG": "portals",
        "QT_QPA_PLATFORMTHEME": "xdgdesktopportal",
        "GIO_USE_PROXY_RESOLVER": "libproxy",
    }
)
"""Variables of GTK 3, of GTK 4 before 4.14, of Qt with a package of its own.

With that of GTK 3, GIO also asks the portal for proxies, the state of the network, the
trash and notifications.  The last variable keeps the proxies of a program's environment,
which no portal knows, if the sandbox has libproxy.
"""
SSH_KEYS_VARIABLE: Final = "VITRAIL_SSH_KEYS"
"""Where a rule lets a program use ssh keys: its agent sets SSH_AUTH_SOCK, with the path
that the guest's end of it has there (``shims/guest/ssh_keys.py``)."""
LINKS_VARIABLE: Final = "VITRAIL_LINKS"
"""Schemes whose addresses a rule may open elsewhere: the session of a box or container
then has our opener as the program of these."""
PRINTER_VARIABLE: Final = "VITRAIL_PRINTER"
"""Where a rule may allow to print: the sandbox's shim then has a printer for programs
that ask CUPS (``shims/files/printing_queue.py``)."""
