"""systemd-vmspawn of Debian's sid, in a booted system of that suite (``kit.booted``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.booted import Booted, booted
from tests.kit.vm.suite_root import suite_root
from tests.kit.world import World

USER = "vitrail"
_SUITE = "sid"
_PACKAGES = (
    *("systemd", "systemd-container", "dbus", "libpam-systemd", "qemu-system-x86"),
    *("mount", "passwd"),
)
ASKS = Path("/run/asks")
_TREE = "/run/tree"
"""Where the person's half finds the suite's own programs."""
# What the person asks root for: lines of shell.
_ASKED = """\
mkfifo -m 666 /run/asks
systemd-run --quiet --unit=asks sh -c '
    while :; do while read -r line; do sh -c "$line"; done < /run/asks; done'
"""
# The suite's vmspawn, with its libraries, among this machine's programs.
_PROGRAM = f"""\
#!/bin/sh
lib={_TREE}/usr/lib/x86_64-linux-gnu
exec {_TREE}/lib64/ld-linux-x86-64.so.2 --library-path $lib:$lib/systemd \\
    {_TREE}/usr/bin/systemd-vmspawn "$@"
"""
OWN = """\
class = "disposable"
display = "allow"
[label]
colour = "green"
[launch]
kind = "vmspawn"
memory = "512M"
"""


@contextmanager
def booted_sid() -> Iterator[Booted]:
    """Boot it, with machined, and with the person and their systemd."""
    with booted(USER, suite_root(_SUITE, _PACKAGES)) as system:
        person = system.person
        system.root(
            f"groupadd -o --gid {person.pw_gid} {USER}; useradd -o --uid {person.pw_uid} "
            f"--gid {person.pw_gid} --home-dir /home/{USER} --create-home {USER}; "
            f"systemctl start user@{person.pw_uid}; "
            f"systemctl start systemd-machined.socket systemd-machined\n{_ASKED}"
            f"mkdir {_TREE}; mount --bind / {_TREE}\n"
        )
        yield system


def own_vmspawn(w: World) -> dict[str, str]:
    """Return the environment in which ``brokerctl run`` starts that vmspawn."""
    runtime, own = Path(os.environ["XDG_RUNTIME_DIR"]), w.base / "run"
    for name in ("systemd", "bus"):
        (own / name).symlink_to(runtime / name)
    folder = w.base / "bin"
    folder.mkdir()
    (folder / "systemd-vmspawn").write_text(_PROGRAM)
    (folder / "systemd-vmspawn").chmod(0o755)
    return {**w.environ, "PATH": f"{folder}:{w.environ['PATH']}"}
