"""The jails of two tools that a launch runs: what each has of the user's.

One reads files of this machine (``broker.host.images.host_files``) and has the session's
directories of fonts; one fetches a program into a folder (``broker.host.vmm.fetch``) and
has apt's files and the network.  Neither has a home beside that, a session or another
process; a socket with a name of its own is none of their files.

Sources: bwrap(1), fonts.conf(5), apt.conf(5).

The program of tools imports it, for the host and for brokerctl, which fetches a program.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from broker.core.errors import SetupError
from broker.helpers.filters.box_filters import box_filter
from broker.helpers.process.popen import our_program, require_installed
from broker.helpers.tools.profiles import FETCH, HOST_FILES, Tool
from broker.helpers.tools.program_jail import program_jail

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


def enter_files(*kinds: str) -> NoReturn:
    """Replace this process with the tool that reads files; exit on failure."""
    _enter(HOST_FILES, files_jail(os.environ), kinds)


def enter_fetch(folder: str, mirror: str) -> NoReturn:
    """Make the folder and replace this process with what fetches; exit on failure."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(str(error))
    _enter(FETCH, fetch_jail(Path(folder), os.environ), (folder, mirror))


def _enter(tool: Tool, jail: ToolJail, arguments: Sequence[str]) -> NoReturn:
    """Replace this process with the tool in its jail; exit with a message on failure."""
    try:
        require_installed("bwrap")
        program = our_program(*tool.inside, *arguments)
        rules = os.memfd_create("filter", 0)
        os.write(rules, box_filter(unix=False))
        os.lseek(rules, 0, os.SEEK_SET)
        # guard: launch tools run in a jail
        argv = [*jail.words(rules), *program]
        os.execvpe(argv[0], argv, jail.variables(os.environ))  # noqa: S606 (our own words)
    except (SetupError, OSError) as error:
        sys.exit(str(error))
