"""Services that other sandboxes may call: where their programs are.

A service is a program of this sandbox's; the broker's rules say who calls it.  Its
name has been checked by the broker (letters, digits, ``._-``), and again here, because
it becomes the name of a file.

A program in the sandbox runs it: that of a call, or ``vitrail-services``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from shims.files.protocol import TransferError

if TYPE_CHECKING:
    from typing import Dict, List

OWN_SERVICES = "~/.config/vitrail-services"
IMAGE_SERVICES = "/etc/vitrail/services.d"
QUBES_SERVICES = ("/usr/local/etc/qubes-rpc", "/etc/qubes-rpc")
# As there: their services have what /etc/profile and ~/.profile set; and our programs,
# whose directory is in the PATH from before.
LOGIN_SHELL = ("/bin/sh", "-l", "-c", 'PATH="$PATH:$0" exec "$@"')
# The Secret Service of this sandbox, where it has no program of its own for it.
SECRET_SERVICE = "vitrail.Secret"
SECRET_COMMAND = ("secret-tool", "lookup", "vitrail")
SERVICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SERVICE_ARGUMENT = re.compile(r"([A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,63})?")


class NoServiceError(TransferError):
    """Raised for a missing service; the code is a shell's for a missing command."""

    code = 127


def find_service(name: str, argument: str) -> List[str]:
    """Return the command of a service.  Raises NoServiceError.

    As in Qubes, ``NAME+ARGUMENT`` precedes ``NAME``, a file of its directories that is
    not executable is a shell script, its argument is the program's, and a login shell
    starts it.
    """
    # It becomes a file's name.
    if not SERVICE_NAME.fullmatch(name) or not SERVICE_ARGUMENT.fullmatch(argument):
        raise NoServiceError("invalid service name or argument")
    for folder in (os.path.expanduser(OWN_SERVICES), IMAGE_SERVICES):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return [path, argument] if argument else [path]
    if name == SECRET_SERVICE and argument:
        return [*SECRET_COMMAND, argument]
    for folder in QUBES_SERVICES:
        for file in (f"{name}+{argument}", name):
            path = os.path.join(folder, file)
            if os.path.isfile(path):
                start = [path] if os.access(path, os.X_OK) else ["/bin/sh", path]
                arguments = [argument] if argument else []
                path = os.environ.get("PATH", "")
                return [*LOGIN_SHELL, path, *start, *arguments]
    raise NoServiceError(f"no service {name}")


def list_services(_words: List[str]) -> int:
    """Print the services of this sandbox, a line each: its name and its program."""
    found: Dict[str, str] = {}
    folders = (
        *reversed(QUBES_SERVICES),
        IMAGE_SERVICES,
        os.path.expanduser(OWN_SERVICES),
    )
    for folder in folders:
        if os.path.isdir(folder):
            for file in os.listdir(folder):
                if SERVICE_NAME.fullmatch(file.partition("+")[0]):
                    found[file] = os.path.join(folder, file)
    for file in sorted(found):
        print(f"{file}\t{found[file]}")
    return 0
