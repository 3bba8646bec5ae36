"""The program of this guest that opens an address or a type of file."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from shims.files.asking import mime_of
from shims.files.desktop_entries import (
    find_shared_type,
    list_entries,
    read_command,
    which,
)
from shims.files.protocol import TransferError
from shims.files.sealing import seal

if TYPE_CHECKING:
    from typing import List, Tuple

# Programs that open a type, where no desktop file says: the first that is there.
VIEWERS = {
    "url": [
        "firefox-esr",
        "firefox",
        "chromium",
        "epiphany",
        "falkon",
        "netsurf-gtk",
        "netsurf-gtk3",
    ],
    "application/pdf": ["evince", "zathura", "mupdf", "okular", "qpdfview"],
    "image/": ["imv-wayland", "imv", "eog", "gpicview", "mupdf", "feh"],
    "text/": ["mousepad", "gedit", "featherpad", "kate", "foot -e less --"],
    "video/": ["mpv", "totem"],
    "audio/": ["mpv", "totem"],
}
RUN_THINGS = frozenset(
    [
        "sh",
        "bash",
        "dash",
        "zsh",
        "fish",
        "env",
        "foot",
        "xterm",
        "weston-terminal",
        "alacritty",
        "kitty",
        "konsole",
        "gnome-terminal",
        "ptyxis",
        "xfce4-terminal",
        "sudo",
    ]
)


def own_command(verb: str, *words: str) -> List[str]:
    """Return a command of this program, which a container has not in its PATH."""
    if which(verb):
        return [verb, *words]
    import sys

    own = (sys.executable, "-I", "-S", "-B", os.path.abspath(sys.argv[0]))
    return [*own, verb, *words]


def run(argv: List[str], sealed: str = "") -> int:
    """Run a program to its end, in whose view the directory ``sealed`` is read-only."""
    import subprocess

    before = partial(seal, sealed) if sealed else None
    try:
        return subprocess.run(argv, check=False, preexec_fn=before).returncode
    except subprocess.SubprocessError:
        # No user namespaces here: mode 0400 has to do.
        return subprocess.run(argv, check=False).returncode


MAGIC = (
    (b"%PDF-", "application/pdf"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


def kind_of(path: str) -> str:
    """Return the type of a file by its first bytes, else by its name."""
    with open(path, "rb") as file:
        head = file.read(512)
    for magic, kind in MAGIC:
        if head.startswith(magic):
            return kind
    return (
        mime_of(path)
        or guest_type(os.path.basename(path))
        or ("text/plain" if b"\0" not in head else "application/octet-stream")
    )


def guest_type(name: str) -> str:
    """Return the type that this guest has for names of files unknown to Python."""
    import mimetypes

    kind = find_shared_type(name)
    # guard: a name without a type for the rules gets none that rules know
    return "" if mimetypes.guess_all_extensions(kind, strict=False) else kind


def opener(what: str, kind: str, fallback: List[str]) -> List[str]:
    """Find the command that opens an address or a file in this sandbox."""
    wanted = f"x-scheme-handler/{what.partition(':')[0]}" if kind == "url" else kind
    command, reason = desktop_command(wanted, what)
    if command:
        return command
    for prefix, programs in VIEWERS.items():
        if kind.startswith(prefix):
            for program in programs:
                argv = program.split()
                if all(which(w) for w in argv if not w.startswith("-")):
                    return [*argv, what]
    # A terminal or a shell would run the file instead of showing it.
    runs = not fallback or os.path.basename(fallback[0]) in RUN_THINGS
    if not runs and which(fallback[0]):
        return [*fallback, what]
    raise TransferError(f"no program in this sandbox can open {wanted}{reason}")


def desktop_command(kind: str, what: str) -> Tuple[List[str], str]:
    """Return the command of the desktop file that opens a type, or why there is none."""
    reason = ""
    for path in list_entries(kind):
        try:
            argv = read_command(path, what)
        except TransferError as error:
            reason = f": {error}"
            continue
        # Our own handler would ask the broker again; that of boxes begins with env(1).
        if argv and "vitrail-open" not in argv and "vitrail" not in argv[0]:
            return argv, ""
    return [], reason
