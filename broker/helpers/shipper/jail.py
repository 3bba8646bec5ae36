"""The shipper's jail: bubblewrap's words for it, and what of ``ship.toml`` they show.

It has Python, our modules, libraries, root certificates, the resolver's files, the files
that ``ship.toml`` names and the audit log, all of it to read, and the directory of the
cursors to write.  Home, session and control socket are not there.  Receivers on a network
have the session's network, and no socket(2) of AF_UNIX: the abstract ones of the
session are in that network, too.  Databases behind a UNIX socket have a jail of their own,
with this socket and without a network.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.core.paths import Paths
from broker.helpers.process.program_files import program_files
from broker.helpers.shipper.config import AnyTarget, HttpTarget, PostgresTarget
from broker.helpers.shipper.local_receivers import LocalTarget
from broker.helpers.tools.program_jail import program_jail

_ETC = (
    *("localtime", "ssl", "pki", "ca-certificates", "crypto-policies"),
    *("resolv.conf", "hosts", "host.conf", "gai.conf", "nsswitch.conf", "services"),
)
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_LIBPQ_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile")
_LIBPQ_VARIABLES = (
    *("PGUSER", "PGPASSWORD", "PGDATABASE", "PGPORT", "PGSSLMODE", "PGCHANNELBINDING"),
    *("PGCONNECT_TIMEOUT", "PGREQUIREPEER", "PGREQUIREAUTH"),
)
_LIBPQ_PATHS = ("PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL")
_PORT = 5432
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
    """Its environment.  Not on its command line, which every user of this machine reads:
    a password may be among them."""

    def watched(self) -> tuple[tuple[str, int, int], ...]:
        """Return the files that the jail shows, with their identities."""
        found = []
        for path in (*self.read, *program_files(), *_hosts_files()):
            try:
                info = path.stat()
            except OSError:
                continue
            found.append((str(path), info.st_dev, info.st_ino))
        return tuple(found)

    def words(self, rules: int) -> list[str]:
        """Return bubblewrap's command line up to the program; ``rules``: its filter."""
        # guard: a shipper to a database behind a socket has no network
        network = self.network
        # Its root is read-only, so a log without a writer is read as a log that does not
        # change ("database._uri").
        shown = (*_hosts_files(), *self.read)
        return program_jail(rules, shown, self.paths.shipping, network=network)


def _hosts_files() -> Iterator[Path]:
    """Yield files that name servers and hosts, which every jail shows."""
    yield from (Path("/etc", name) for name in _ETC)


def jails_of(
    paths: Paths, targets: Sequence[AnyTarget], environ: Mapping[str, str]
) -> list[ShipperJail]:
    """Return the jails that these receivers need.  Raises SetupError."""
    audit = paths.audit
    log = [audit, *(audit.with_name(f"{audit.name}-{end}") for end in ("wal", "shm"))]
    jails = []
    for behind_socket in (False, True):
        served = tuple(
            one for one in targets if bool(_sockets(one, environ)) == behind_socket
        )
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
        jails.append(
            ShipperJail(served, paths, (*log, *read), far, behind_socket, variables)
        )
    return jails


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("HOME", "/"))


def _sockets(config: AnyTarget, environ: Mapping[str, str]) -> list[Path]:
    """Return the UNIX sockets of a database; none: it is on a network, or no database.

    The socket and not its directory, which may be that of the session's sockets.
    """
    if not isinstance(config, PostgresTarget):
        return []
    named = _libpq_words(config)
    hosts = f"{named.get('hostaddr') or named.get('host') or ''}".split(",")
    places = _SOCKETS if hosts == [""] else [h for h in hosts if h.startswith("/")]
    ports = f"{named.get('port') or environ.get('PGPORT') or ''}".split(",")
    # guard: a database's jail shows its socket alone
    names = [f".s.PGSQL.{port or _PORT}" for port in ports]
    return [Path(place, name) for place in places for name in names]


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
            yield from _sockets(config, environ)
            home = _home(environ)
            yield from (home / ".pgpass", home / ".postgresql")
        case _:
            return


def _libpq_words(config: PostgresTarget) -> Mapping[str, object]:
    """Return the words of a database's address, as libpq reads them."""
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
