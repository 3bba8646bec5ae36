"""The parts of a viewer that answer the control socket."""

from __future__ import annotations

from broker.viewer.clipboard.control import ClipboardControl
from broker.viewer.devices.control import DeviceControl
from broker.viewer.dialogs import PortalControl
from broker.viewer.folders.control import FolderControl
from broker.viewer.network.network_control import NetworkControl
from broker.viewer.notifications.notification_service import NotificationControl
from broker.viewer.role import ViewerRole
from broker.viewer.runner import Runner
from broker.viewer.sound.sound_control import SoundControl
from broker.viewer.wayland.window_requests import WindowsPart


def viewer_parts(viewer: ViewerRole, runner: Runner) -> list[object]:
    """Return the objects that answer the control socket in a viewer."""
    return [
        runner,
        viewer.person,
        viewer.forwards,
        WindowsPart(viewer),
        NetworkControl(viewer),
        SoundControl(viewer),
        ClipboardControl(viewer.clipboard),
        DeviceControl(viewer.devices, viewer.cameras, viewer.screens),
        FolderControl(viewer.folders),
        NotificationControl(viewer.notifications.board),
        PortalControl(viewer.authority),
    ]
