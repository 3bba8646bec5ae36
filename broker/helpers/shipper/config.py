"""Read and check ``ship.toml``, the targets of the audit log.

    machine = "desk-7"             # how it calls itself; default: the host's name
    batch_seconds = 30             # events that are not urgent wait so long to be one batch

    [[target]]
    name = "fleet"
    to = "postgresql"
    address = "postgresql://vitrail@db.example/audit?sslmode=verify-full"

    [[target]]
    name = "collector"
    to = "otlp"
    endpoint = "https://otel.example:4318/v1/logs"

    [[target]]
    name = "journal"
    to = "journald"

    [[target]]
    name = "file"
    to = "jsonl"
    path = "/var/log/vitrail/audit.jsonl"

The first ``ship.toml`` of the configuration directories holds.

The shipper reads it to send the log; a session child and brokerctl read it to report
its mistakes.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from typing_extensions import override

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError
from broker.core.limits import audit as audit_limits
from broker.core.paths import read_config

_BATCH_SECONDS = 3600
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_URI = re.compile(r"postgres(ql)?://([^@/?#]*@)?[^@/?#]*(/[^@/?#]*)?(\?[^@#]*)?")
# A longer word in a path may be a token, as in those of web hooks.
_PLAIN = re.compile(r"[a-z]+://[^@/?#]*(/[\w.-]{0,15})*")
_LOGIN = re.compile("//.*:.*@")
_OPEN = re.compile("dbname|host|hostaddr|port|ssl(cert|key|mode|rootcert)|user")


class _Receiver(msgspec.Struct, tag_field="to", forbid_unknown_fields=True):
    name: str

    def where(self) -> str:
        """For people, without secrets.  Raises ValueError."""
        return str(self.__struct_config__.tag)

    def secret(self) -> bool:
        """Return whether the file has a secret in it."""
        return False


class PostgresTarget(_Receiver, tag="postgresql"):
    """A database, PostgreSQL 13 or later."""

    address: str
    """As libpq takes it: a URI or ``key=value`` words."""
    plaintext: bool = False
    """Allow another machine without ``sslmode=verify-full`` or ``verify-ca``."""

    @override
    def where(self) -> str:
        """Return the database's address without its password."""
        if not self.address.startswith(("postgresql://", "postgres://")):
            return super().where()
        # guard: no part of a password is taken for a host
        if _URI.fullmatch(self.address) is None:
            raise ValueError
        parts = urlsplit(self.address)
        return f"postgresql {parts.hostname or 'here'}{parts.path}"

    @override
    def secret(self) -> bool:
        """Also where an option is not known to be none."""
        named = re.findall(r"(\w+)\s*=", unquote(self.address))
        # guard: a secret of an address is one under any name
        return not all(map(_OPEN.fullmatch, named)) or bool(_LOGIN.search(self.address))


class HttpTarget(_Receiver):
    """A receiver that is reached by HTTP."""

    endpoint: str
    """An OTLP/HTTP collector's whole address, with ``/v1/logs``; an ingest service's:
    https://HOST:PORT."""
    ca: str = ""
    """A file of certificates to believe instead of the system's."""
    certificate: str = ""
    key: str = ""
    """Files of ours, where it wants to know who we are."""
    plaintext: bool = False
    """Allow ``http://`` to another machine: every hop on the way can read it."""

    @override
    def where(self) -> str:
        parts = urlsplit(self.endpoint)
        return f"{super().where()} {parts.scheme}://{parts.hostname or ''}"

    @override
    def secret(self) -> bool:
        # guard: a collector's address may be its secret
        return _PLAIN.fullmatch(self.endpoint) is None


class OtlpTarget(HttpTarget, tag="otlp"):
    """An OTLP/HTTP collector."""

    headers: dict[str, str] = {}
    gzip: bool = True

    @override
    def secret(self) -> bool:
        return bool(self.headers) or super().secret()


class IngestTarget(HttpTarget, tag="ingest"):
    """A fleet's ingest service (``vitrail-ingest``)."""

    token: str = ""
    """As 'brokerctl audit fleet enrol --token' has printed it."""

    @override
    def secret(self) -> bool:
        return bool(self.token) or super().secret()


class JournaldTarget(_Receiver, tag="journald"):
    """This machine's journal."""

    socket: str = "/run/systemd/journal/socket"


class JsonlTarget(_Receiver, tag="jsonl"):
    """A file that is added to."""

    path: str

    @override
    def where(self) -> str:
        return f"file {self.path}"


AnyTarget = PostgresTarget | OtlpTarget | IngestTarget | JournaldTarget | JsonlTarget


class ShipConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Contents of ``ship.toml``."""

    machine: str = ""
    batch_seconds: float = 30.0
    """For so long events wait for a fleet's store or a collector to be one batch: one
    transaction there costs as much as fifty events.  0: not at all."""
    target: list[AnyTarget] = []

    def called(self) -> str:
        """How this machine is called in a fleet's store."""
        return self.machine or socket.gethostname()


def load_config(path: Path) -> ShipConfig:
    """Read ``ship.toml``.  Raises SetupError with the file's name and what to do."""
    try:
        config = msgspec.toml.decode(read_config(path), type=ShipConfig)
    except OSError as error:
        raise SetupError(
            f"cannot read: {error.strerror}",
            where=str(path),
            hint="to send the log elsewhere, write this file as docs/audit.md says, or name another one with --config",
        ) from error
    except UNREADABLE as error:
        raise SetupError(
            f"invalid configuration: {error}",
            where=str(path),
            hint="see docs/audit.md, 'Shipping', for an example of each kind of target",
        ) from error
    problem = _problem(config)
    if problem:
        raise SetupError(problem, where=str(path))
    if any(t.secret() for t in config.target) and path.stat().st_mode & 0o077:
        raise SetupError(
            "may contain a secret (an address, a token or headers), but is readable by others",
            where=str(path),
            hint=f"run 'chmod 600 {path}'",
        )
    return config


def _problem(config: ShipConfig) -> str:
    """Return the first error in targets, batch time or machine's name; empty without."""
    for target in config.target:
        try:
            target.where()
            target.secret()
        except ValueError:
            return f"target {target.name!r}: the address is invalid"
    names = [target.name for target in config.target]
    for name in names:
        if _NAME.fullmatch(name) is None:
            return f"{name!r} is not a name of at most 32 lower-case letters, digits and '-'"
        if names.count(name) > 1:
            return f"two targets are named {name!r}"
    if len(names) > audit_limits.SHIP_TARGETS:
        return f"there are {len(names)} targets (at most {audit_limits.SHIP_TARGETS})"
    if not 0 <= config.batch_seconds <= _BATCH_SECONDS:
        return f"batch_seconds must be from 0 to {_BATCH_SECONDS}"
    if not 0 < len(config.called()) <= 255 or not config.called().isprintable():
        return "machine must be a name of at most 255 printable characters"
    return ""
