"""The administrator's list of devices that may leave this machine: ``devices.toml``.

    strict = true                       # nothing binds before a verdict

    [[device]]
    name = "sticks"
    sandboxes = ["untrusted", "viewer"] # or ["*"]
    with-interface = { op = "match-all", values = ["08:*:*"] }

A device that no table matches is never handed to any sandbox, whatever a viewer
decides: the rules choose among the devices of these tables.  The conditions are those
of rules (``policy.records.device``), and a keyboard or hub must be named here too.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.names import take_sandbox_name
from broker.ipc.devices.description import Device
from policy.records.device import DeviceError, DeviceFacts, DeviceRule, Interface
from policy.records.device_json import rule_from

_WAYS = ("qmp", "libvirt", "crosvm")
"""Protocols by which a machine takes a device: keys of [[machine]]."""
# No leading dash: they are words of a command line.
_DOMAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+:-]{0,99}")
_PATH = re.compile(r"/[!-~]{1,106}")
_URI = re.compile(r"[a-z+]{1,20}://[!-~]{0,200}")
_SYSTEM = "qemu:///system"
_FILE_BYTES = 65536
_KEYS = frozenset({"name", "sandboxes"})


@dataclass(frozen=True)
class DeviceRecord:
    """One table of the file."""

    name: str
    sandboxes: tuple[str, ...]
    rule: DeviceRule


@dataclass(frozen=True)
class MachineRecord:
    """How a machine that another program started takes a device."""

    sandbox: str
    kind: str
    target: str
    """The path of a socket, or the name of a libvirt domain."""
    uri: str = ""


@dataclass(frozen=True)
class DeviceRecords:
    """The whole file; without one, nothing may leave."""

    records: tuple[DeviceRecord, ...] = ()
    strict: bool = False
    machines: tuple[MachineRecord, ...] = ()

    def machine(self, sandbox: str) -> MachineRecord | None:
        """Return how a sandbox's machine takes a device, as the file says."""
        return next((m for m in self.machines if m.sandbox == sandbox), None)

    def sandboxes(self, device: Device) -> list[str]:
        """Return the sandboxes that a device may go to; ``*`` is any."""
        facts = facts_of(device)
        # guard: HID interfaces in records
        found = dict.fromkeys(
            name
            for record in self.records
            if record.rule.matches(facts)
            and record.rule.unnamed(facts, any_hid=True) is None
            for name in record.sandboxes
        )
        return ["*"] if "*" in found else sorted(found)

    def allow(self, device: Device, sandbox: str) -> bool:
        """Return whether a device may go to a sandbox."""
        return bool({sandbox, "*"}.intersection(self.sandboxes(device)))


def facts_of(device: Device) -> DeviceFacts:
    """Convert a device to the facts that rules may ask about."""
    return DeviceFacts(
        id=device.id,
        serial=device.serial,
        port=device.port,
        hash=device.digest,
        interfaces=tuple(Interface(*interface) for interface in device.interfaces),
    )


def load_records(path: Path) -> DeviceRecords:
    """Read a file of records.  Raises SetupError with the place of a mistake."""
    try:
        content = _content(path)
    except FileNotFoundError:
        return DeviceRecords()
    except OSError as error:
        raise SetupError(
            f"cannot be read: {error.strerror}", where=str(path)
        ) from error
    if len(content) > _FILE_BYTES:
        raise SetupError(f"has more than {_FILE_BYTES} bytes", where=str(path))
    try:
        return _records(tomllib.loads(content.decode("utf-8")))
    except (ValueError, RecursionError, DeviceError) as error:
        raise SetupError(str(error), where=str(path)) from error


def _content(path: Path) -> bytes:
    """Read the file's bytes.  Raises OSError, SetupError when others may write it.

    Without waiting for a FIFO's other end: this process must stay able to take
    devices back.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise SetupError("is not a regular file", where=str(path))
        # guard: records are the administrator's
        if facts.st_uid not in {0, os.geteuid()} or facts.st_mode & 0o022:
            raise SetupError(
                "is writable by other users",
                where=str(path),
                hint=f"run 'chown root {path}' and 'chmod 644 {path}' as root",
            )
        return file.read(_FILE_BYTES + 1)


def _records(found: dict[str, object]) -> DeviceRecords:
    """Convert the decoded file to records.  Raises DeviceError for a mistake."""
    unknown = found.keys() - {"strict", "device", "machine"}
    if unknown:
        raise DeviceError(
            min(unknown), "unknown key; expected: strict, device, machine"
        )
    strict, tables = found.get("strict", False), found.get("device", [])
    machines = found.get("machine", [])
    if not isinstance(machines, list):
        raise DeviceError("machine", "not a list of tables: write [[machine]]")
    if not isinstance(strict, bool):
        raise DeviceError("strict", "must be true or false")
    if not isinstance(tables, list):
        raise DeviceError("device", "not a list of tables: write [[device]]")
    return DeviceRecords(
        tuple(_record(table, f"device[{n}]") for n, table in enumerate(tables)),
        strict,
        tuple(_machine(table, f"machine[{n}]") for n, table in enumerate(machines)),
    )


def _machine(table: object, place: str) -> MachineRecord:
    """Convert one ``[[machine]]`` table.  Raises DeviceError."""
    if not isinstance(table, dict) or not all(
        isinstance(value, str) for value in table.values()
    ):
        raise DeviceError(place, "not a table of strings: write [[machine]]")
    values: dict[str, str] = dict(table)
    _sandbox(values.pop("sandbox", ""), place)
    uri = values.pop("uri", "")
    if len(values) != 1 or not {*values} <= {*_WAYS}:
        raise DeviceError(place, f"expected exactly one of: {', '.join(_WAYS)}")
    ((kind, target),) = values.items()
    if uri and kind != "libvirt":
        raise DeviceError(f"{place}.uri", "is allowed only for a libvirt domain")
    # guard: targets are names
    if not (_DOMAIN if kind == "libvirt" else _PATH).fullmatch(target):
        raise DeviceError(f"{place}.{kind}", "invalid name or path")
    if uri and not _URI.fullmatch(uri):
        raise DeviceError(f"{place}.uri", "not a libvirt URI")
    return MachineRecord(str(table["sandbox"]), kind, target, uri or _SYSTEM)


def _record(table: object, place: str) -> DeviceRecord:
    """Convert one ``[[device]]`` table.  Raises DeviceError."""
    if not isinstance(table, dict):
        raise DeviceError(place, "not a table: write [[device]]")
    name, names = table.get("name", ""), table.get("sandboxes")
    if not isinstance(name, str):
        raise DeviceError(f"{place}.name", "not text")
    if not isinstance(names, list) or not names:
        raise DeviceError(f"{place}.sandboxes", 'expected a list of names, or ["*"]')
    for word in names:
        if word != "*":
            _sandbox(word, place)
    conditions = {key: value for key, value in table.items() if key not in _KEYS}
    rule = rule_from(conditions, place)
    # guard: a record has a condition
    if not rule.conditions:
        raise DeviceError(place, "has no condition and would match every device")
    return DeviceRecord(name, tuple(names), rule)


def _sandbox(word: object, place: str) -> None:
    try:
        take_sandbox_name(str(word))
    except Exception as error:
        raise DeviceError(f"{place}.sandboxes", str(error)) from error
