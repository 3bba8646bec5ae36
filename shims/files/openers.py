"""The program of this guest that opens an address or a type of file."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from shims.files.asking import mime_of
from shims.files.protocol import TransferError
from shims.files.sealing import seal

if TYPE_CHECKING:
    from typing import Iterator, List, Optional

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
    return mime_of(path) or (
        "text/plain" if b"\0" not in head else "application/octet-stream"
    )


def opener(what: str, kind: str, fallback: List[str]) -> List[str]:
    """Find the command that opens an address or a file in this sandbox."""
    wanted = f"x-scheme-handler/{what.partition(':')[0]}" if kind == "url" else kind
    found = desktop_command(wanted, what)
    if found:
        return found
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
    raise TransferError(f"no program in this sandbox can open {wanted}")


def desktop_command(kind: str, what: str) -> List[str]:
    """Return the command of the desktop file that opens a type, or nothing."""
    import configparser
    import shlex

    for folder in desktop_folders():
        for name in handlers(folder, kind):
            parser = configparser.RawConfigParser(strict=False)
            try:
                parser.read(os.path.join(folder, name), encoding="utf-8")
                line = parser.get("Desktop Entry", "Exec")
                words = shlex.split(line)
                argv = [expand(word, what) for word in words]
            except (configparser.Error, ValueError, OSError, UnicodeDecodeError):
                continue
            argv = [word for word in argv if word]
            # Our own handler would ask the broker again; that of boxes begins with env(1).
            ours = "vitrail-open" in words or "vitrail" in argv[0] if argv else True
            if not ours and which(argv[0]):
                return argv if what in argv else [*argv, what]
    return []


def which(program: str) -> Optional[str]:
    """Return the path of a program that is installed here."""
    import shutil

    return shutil.which(program)


def desktop_folders() -> List[str]:
    """Where desktop files are, the user's first."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    dirs = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    return [os.path.join(d, "applications") for d in [home, *dirs.split(":")] if d]


def handlers(folder: str, kind: str) -> Iterator[str]:
    """Yield a folder's desktop files for a type: chosen ones, then registered."""
    import configparser

    for name, section in (
        ("mimeapps.list", "Default Applications"),
        ("mimeinfo.cache", "MIME Cache"),
    ):
        parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read(os.path.join(folder, name), encoding="utf-8")
            yield from [w for w in parser.get(section, kind).split(";") if w]
        except (configparser.Error, UnicodeDecodeError):
            continue


def expand(word: str, what: str) -> str:
    """Return a word of Exec= with its field code filled in."""
    if word in ("%u", "%U", "%f", "%F"):
        return what
    return "" if len(word) == 2 and word[0] == "%" else word
