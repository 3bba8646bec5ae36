"""The launch tools: one program, which a launch runs to its end, and its jails.

``files KIND…`` reads files of this machine (``broker.host.images.host_files``) and has
the session's directories of fonts.  ``fetch FOLDER MIRROR`` fetches a program into a
folder (``broker.host.vmm.fetch``) and has apt's files and the network.  Both become
bubblewrap, which runs this program again as ``inside``: with a read-only root, no home
beside that, no session, no other process; a socket with a name of its own is none of
their files.  ``unpack KERNEL TARGET`` unpacks a kernel in a fork that confines itself
(``broker.host.images.unpack``).

Sources: bwrap(1), fonts.conf(5), apt.conf(5).

The host starts it, and brokerctl to fetch a program.
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

LAUNCH_TOOL = "broker.host.vmm.launch_tool"
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
    """Run the tool that the first words name; exit with a message on failure."""
    # Late, by mode: what reads files and answers of others is imported in the jail.
    match sys.argv[1:]:
        case "unpack", kernel, target:
            from broker.host.images.unpack import unpack_kernel

            unpack_kernel(int(kernel), Path(target))
        case "inside", "files", *kinds:
            from broker.host.images.host_files import print_files

            print_files(kinds)
        case "inside", "fetch", folder, mirror:
            from broker.host.vmm.fetch import fetch_tool

            fetch_tool(Path(folder), mirror)
        case "files" | "fetch" as name, *words:
            _enter_jail(name, words)
        case words:
            sys.exit(f"there is no launch tool {words[:1]}")


def _enter_jail(name: str, words: list[str]) -> None:
    """Replace this process with the tool in its jail."""
    try:
        require_installed("bwrap")
        if name == "fetch":
            folder = Path(words[0])
            folder.mkdir(parents=True, exist_ok=True)
            jail = fetch_jail(folder, os.environ)
        else:
            jail = files_jail(os.environ)
        program = our_program(LAUNCH_TOOL, "inside", name, *words)
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
