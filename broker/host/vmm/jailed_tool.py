"""The jail of a launch tool: what starts it reads its own arguments, and becomes bubblewrap.

``files KIND…`` reads files of this machine (``broker.host.images.host_files``) and has
the session's directories of fonts.  ``fetch FOLDER MIRROR`` fetches a program into a
folder (``broker.host.vmm.fetch``) and has apt's files and the network.  Both have a
read-only root, no home beside that, no session, no other process; a socket with a name
of its own is none of their files.

Sources: bwrap(1), fonts.conf(5), apt.conf(5).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import SetupError
from broker.helpers.filters.box_filters import box_filter
from broker.helpers.process.popen import our_program, require_installed
from broker.helpers.program_jail import program_jail

_BOTH = ("ssl", "pki", "ca-certificates", "crypto-policies", "alternatives")
_FONTS = ("/etc/fonts", "/var/cache/fontconfig")
_APT = ("/etc/apt", "/var/lib/apt", "/var/lib/dpkg")
_NETWORK = (
    *("resolv.conf", "hosts", "host.conf", "gai.conf", "nsswitch.conf", "services"),
    *("os-release", "passwd"),
)
_LOCALE = ("PATH", "HOME", "LC_ALL", "LC_CTYPE", "LANG")
_XDG = {
    "XDG_CONFIG_HOME": (".config", "fontconfig"),
    "XDG_DATA_HOME": (".local/share", "fonts"),
    "XDG_CACHE_HOME": (".cache", "fontconfig"),
}
"""Variables of directories, their places in the home, and what fontconfig reads there."""


@dataclass(frozen=True)
class ToolJail:
    """What a launch tool has of the user's."""

    shown: tuple[Path, ...]
    names: tuple[str, ...]
    """Variables of the session.  Not on a command line, which every user can read: a
    proxy may have a password."""
    writable: Path | None = None
    network: bool = False

    def words(self, rules: int) -> list[str]:
        """Return bubblewrap's command line up to the program; ``rules``: its filter."""
        # guard: a launch tool that reads files has no network
        network = self.network
        return program_jail(rules, self.shown, self.writable, network=network)

    def variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the tool's environment."""
        # guard: a launch tool has no other variable of the session
        return {name: environ[name] for name in self.names if name in environ}


def files_jail(environ: Mapping[str, str]) -> ToolJail:
    """Return the jail of the tool that reads fonts, locales and certificates."""
    home = Path(environ.get("HOME", "/nonexistent"))
    shown = [Path("/etc", name) for name in _BOTH]
    shown += [Path(name) for name in _FONTS]
    shown += [home / ".fonts", home / ".fonts.conf"]
    for name, (place, folder) in _XDG.items():
        shown.append(Path(environ.get(name) or home / place, folder))
    return ToolJail(tuple(shown), (*_LOCALE, *_XDG))


def fetch_jail(folder: Path, environ: Mapping[str, str]) -> ToolJail:
    """Return the jail of what fetches a program into a folder."""
    shown = [Path("/etc", name) for name in (*_BOTH, *_NETWORK)]
    shown += [Path(name) for name in _APT]
    proxies = tuple(name for name in environ if name.lower().endswith("_proxy"))
    return ToolJail(tuple(shown), ("PATH", "LANG", *proxies), folder, network=True)


def main() -> None:
    """Replace this process with the tool in its jail.

    Exit with a message on failure.
    """
    name, *words = sys.argv[1:]
    try:
        require_installed("bwrap")
        if name == "fetch":
            folder = Path(words[0])
            folder.mkdir(parents=True, exist_ok=True)
            jail = fetch_jail(folder, os.environ)
            program = our_program("broker.host.vmm.fetch", *words)
        else:
            jail = files_jail(os.environ)
            program = our_program("broker.host.images.host_files", *words)
        rules = os.memfd_create("filter", 0)
        os.write(rules, box_filter(unix=False))
        os.lseek(rules, 0, os.SEEK_SET)
        # guard: launch tools run in a jail
        argv = [*jail.words(rules), *program]
        os.execvpe(argv[0], argv, jail.variables(os.environ))  # noqa: S606
    except (SetupError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
