"""The shipper's jail: bubblewrap's words for it, and what of ``ship.toml`` they show.

It has Python, our modules, libraries, root certificates, the resolver's files, the files
that ``ship.toml`` names and the audit log, all of it to read, and the directory of the
cursors to write.  Home, session and control socket are not there.  Receivers on a network
have one that is the session's, and no socket(2) of AF_UNIX: the abstract ones of the
session are in that network, too.  Databases behind a UNIX socket have a jail of their own,
with this socket and without a network.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import broker
from broker.core.paths import Paths
from broker.helpers.shipper.config import AnyTarget, HttpTarget, PostgresTarget
from broker.helpers.shipper.local_receivers import LocalTarget

_ETC = (
    *("ld.so.cache", "localtime", "ssl", "pki", "ca-certificates", "crypto-policies"),
    *("resolv.conf", "hosts", "host.conf", "gai.conf", "nsswitch.conf", "services"),
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_LIBPQ_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile")
_LIBPQ_VARIABLES = (
    *("PGUSER", "PGPASSWORD", "PGDATABASE", "PGPORT", "PGSSLMODE", "PGCHANNELBINDING"),
    *("PGCONNECT_TIMEOUT", "PGREQUIREPEER", "PGREQUIREAUTH"),
)
_LIBPQ_PATHS = ("PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL")
_SOCKETS = ("/run/postgresql", "/var/run/postgresql")
"""Where libpq looks for a database without a host, as distributions build it."""


@dataclass(frozen=True)
class ShipperJail:
    """What one jail shows, and the receivers that are served from it."""

    targets: tuple[AnyTarget, ...]
    paths: Paths
    read: tuple[Path, ...]
    network: bool
    unix: bool
    """Whether its receivers are behind UNIX sockets."""
    variables: Mapping[str, str]

    def watched(self) -> tuple[tuple[str, int, int], ...]:
        """Return which files it shows: a jail keeps one that was replaced meanwhile."""
        found = []
        for path in (*self.read, *_program_files()):
            try:
                info = path.stat()
            except OSError:
                continue
            found.append((str(path), info.st_dev, info.st_ino))
        return tuple(found)

    def words(self, rules: int) -> list[str]:
        """Return bubblewrap's command line up to the program; ``rules``: its filter."""
        words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
        # guard: a shipper to a database behind a socket has no network
        words += ["--share-net"] if self.network else []
        words += ["--cap-drop", "ALL", "--clearenv", "--seccomp", str(rules)]
        for name, value in self.variables.items():
            words += ["--setenv", name, value]
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108
        shown = [*_program_files(), *self.read]
        # A later mount covers the files below it.
        for path in sorted(dict.fromkeys(shown), key=lambda one: len(one.parts)):
            words += ["--ro-bind-try", str(path), str(path)]
        cursors = str(self.paths.shipping)
        words += ["--bind", cursors, cursors]
        # A log without a writer is then read as one that does not change ("database._uri").
        words += ["--remount-ro", "/"]
        return [*words, "--chdir", "/", "--"]


def _program_files() -> Iterator[Path]:
    """Yield Python, our modules, and what their libraries need."""
    yield from (Path(name) for name in _SYSTEM)
    yield from (Path(sys.base_prefix), Path(sys.prefix))
    yield Path(sys.executable).resolve().parents[1]
    yield Path(broker.__file__).parent
    for name in _ETC:
        yield Path("/etc", name)


def jails_of(
    paths: Paths, targets: Sequence[AnyTarget], environ: Mapping[str, str]
) -> list[ShipperJail]:
    """Return the jails that these receivers need.  Raises SetupError."""
    audit = paths.audit
    log = [audit, *(audit.with_name(f"{audit.name}-{end}") for end in ("wal", "shm"))]
    found = []
    for behind_socket in (False, True):
        served = tuple(one for one in targets if _by_socket(one) == behind_socket)
        if not served:
            continue
        read = [path for one in served for path in _named_files(one, environ)]
        names = ["PATH", "LANG", "TZ", "VITRAIL_DEBUG", *_CERTIFICATES]
        variables = {}
        if any(isinstance(one, PostgresTarget) for one in served):
            names += [*_LIBPQ_VARIABLES, *_LIBPQ_PATHS]
            # libpq asks the session's files for both, otherwise.
            variables["HOME"] = str(_home(environ))
            variables["PGUSER"] = pwd.getpwuid(os.getuid()).pw_name
        read += [Path(environ[n]) for n in _CERTIFICATES if n in environ]
        # guard: a shipper has no other variable of the session
        variables |= {n: environ[n] for n in names if n in environ}
        far = not behind_socket and not all(isinstance(t, LocalTarget) for t in served)
        found.append(
            ShipperJail(served, paths, (*log, *read), far, behind_socket, variables)
        )
    return found


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME", "/"))


def _by_socket(config: AnyTarget) -> bool:
    return isinstance(config, PostgresTarget) and bool(_sockets(config))


def _sockets(config: PostgresTarget) -> list[Path]:
    """Return the directories of a database's UNIX sockets; none: it has a host."""
    named = _libpq_words(config)
    hosts = f"{named.get('hostaddr') or named.get('host') or ''}".split(",")
    if hosts == [""]:
        return [Path(place) for place in _SOCKETS]
    return [Path(host) for host in hosts if host.startswith("/")]


def _named_files(config: AnyTarget, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files that a receiver's part of ``ship.toml`` names."""
    match config:
        case HttpTarget():
            named = (config.ca, config.certificate, config.key)
            yield from (Path(name) for name in named if name.startswith("/"))
        case PostgresTarget():
            words = _libpq_words(config)
            files = [str(words.get(name) or "") for name in _LIBPQ_FILES]
            files += [environ.get(name, "") for name in _LIBPQ_PATHS]
            yield from (Path(name) for name in files if name.startswith("/"))
            yield from _sockets(config)
            home = _home(environ)
            yield from (home / ".pgpass", home / ".postgresql")
        case _:
            return


def _libpq_words(config: PostgresTarget) -> Mapping[str, object]:
    # The package is optional, and without it nothing is shipped to a database.
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        return {}
    try:
        return conninfo_to_dict(config.address)
    except ProgrammingError:  # which the receiver reports
        return {}
