"""Host keys of ssh: drawn by each machine, never those of its image.

A package's installation draws keys, so an image has the same ones in each of its
machines, and a sandbox could pass for another one.  The image's are removed at each
start, in parents too; a machine draws its own when it has its identity.
"""

from __future__ import annotations

import glob
import os
import subprocess
from typing import TYPE_CHECKING

from shims.guest.loop import log

if TYPE_CHECKING:
    from shims.guest.guest import Guest

SSH_DIRECTORY = "etc/ssh"
SSH_SERVER = "usr/sbin/sshd"
SSH_KEYGEN = "usr/bin/ssh-keygen"
DBUS_ID = "var/lib/dbus/machine-id"
MACHINE_ID = "/etc/machine-id"
# One kind: each client since OpenSSH 6.5 knows it, and it takes an emulated processor
# a moment where RSA takes seconds.
KEY_KIND = "ed25519"


def remove_image_keys(root: str = "/") -> None:
    """Remove the host keys, and D-Bus's own machine id, which came with the image."""
    for path in glob.glob(os.path.join(root, SSH_DIRECTORY, "ssh_host_*")):
        _remove(path)
    identity = os.path.join(root, DBUS_ID)
    if os.path.isfile(identity) and not os.path.islink(identity):
        _remove(identity)
        try:
            os.symlink(MACHINE_ID, identity)
        except OSError as error:
            log(f"{identity}: {error}")


def _remove(path: str) -> None:
    """Remove a key of the image's; an error is logged."""
    try:
        os.unlink(path)
    except OSError as error:
        log(f"cannot remove the image's {path}: {error}")


def make_host_keys(guest: "Guest", root: str = "/") -> None:
    """Generate an SSH host key in the background, where there is a server for it."""
    keygen = os.path.join(root, SSH_KEYGEN)
    if not (os.path.exists(keygen) and os.path.exists(os.path.join(root, SSH_SERVER))):
        return
    path = os.path.join(root, SSH_DIRECTORY, f"ssh_host_{KEY_KIND}_key")
    try:
        process = subprocess.Popen(
            [keygen, "-q", "-t", KEY_KIND, "-N", "", "-f", path],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        log(f"cannot create a host key for ssh: {error}")
        return

    def ended(code: int) -> None:
        if code != 0:
            log(f"cannot create a host key for ssh: ssh-keygen ended with code {code}")

    guest.loop.child(process, ended)
