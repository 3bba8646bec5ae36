"""libvirt's hook for QEMU and LXC: reports a domain's steps to Vitrail's broker.

libvirt runs it as ``hooks/qemu.d/vitrail NAME STEP SUBSTEP EXTRA``, or in ``lxc.d``, with
the domain's XML on standard input (https://libvirt.org/hooks.html).  It never calls
libvirt back, which would wait for itself.

A domain that no record of Vitrail's is about does not concern it.  A domain that
names a sandbox in its metadata,

    <vitrail:sandbox xmlns:vitrail="https://vitrail.io/libvirt/1"
                     name="work" required="yes"/>

and says ``required="yes"`` does not start without the broker, and neither does one
whose record says ``required = true`` in its [launch].  If the hook refuses its XML, any
record of a domain that says so counts.  Any other starts whatever happens here, and
then has no lease: nothing of it reaches the desktop.

Whose broker: the user's who runs libvirtd, or, for the system's libvirtd, the one
in ``/etc/vitrail/libvirt-hook.json`` ({"uid": 1000}).
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import socket
import sys
import time
from pathlib import Path

from shims.hooks.records import PARENTS, RecordWords, limit_memory, read_record
from shims.hooks.rights import become, give_up_files
from shims.hooks.user_socket import HookError, connect_to_user, require_peer

NAMESPACE = "https://vitrail.io/libvirt/1"
SETTINGS = "/etc/vitrail/libvirt-hook.json"
METHOD = "io.vitrail.Broker.MachineEvent"
STEPS = {
    ("prepare", "begin"): "prepare",
    ("started", "begin"): "started",
    ("reconnect", "begin"): "started",
    ("release", "end"): "release",
}
DEADLINE = {"prepare": 15.0, "started": 15.0, "release": 5.0}
XML_BYTES = 32 << 20
XML_DEPTH = 64
TEXT_CHARS = 512
ARGUMENTS = 1000
FOLDERS = 64
ANSWER_BYTES = 1 << 20
RECORDS_SECONDS = 5.0
RECORDS = 1000


class Domain:
    """The values of the domain's XML that the hook uses, not yet validated."""

    def __init__(self) -> None:
        self.is_container = False
        self.controller: int | None = None
        self.uuid = ""
        self.cid: int | None = None
        self.vhost_user: str | None = None
        self.virtiofs: dict[str, str] = {}
        self.record: str | None = None
        self.required = False
        self.complete = False
        """Whether the whole XML was read."""


def read_domain(data: bytes, domain: Domain | None = None) -> Domain:
    """Return the domain of an XML document, filled into ``domain`` if that is given.

    Raises HookError; what was read until then is in ``domain``.
    """
    # Late: Podman's containers have no XML.
    from xml.parsers import expat

    domain = domain or Domain()
    reader = _Reader(domain)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)  # noqa: FBT003 -- positional in expat
    except expat.ExpatError as error:
        raise HookError(f"cannot parse the domain's XML: {error}") from error
    domain.vhost_user = reader.vhost_user()
    domain.complete = True
    return domain


class _Reader:
    """Collects a few values and forgets the rest: metadata may be any size."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.path: list[str] = []
        self.words: list[str] = []
        self.socket = ""
        self.collected = ""

    def refuse(self, *_: object) -> None:
        raise HookError("the domain's XML has a document type declaration")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Note an element's start and what its attributes say."""
        if len(self.path) >= XML_DEPTH:
            raise HookError("the domain's XML is nested too deeply")
        self.path.append(name)
        self.collected = ""
        where = "/".join(self.path)
        if where == "domain":
            self.domain.is_container = attributes.get("type") == "lxc"
            self.domain.controller = _number(attributes.get("id"))
        elif where == "domain/devices/vsock/cid":
            self.domain.cid = _number(attributes.get("address"))
        elif where == f"domain/metadata/{NAMESPACE} sandbox":
            self.domain.record = attributes.get("name", "")[:TEXT_CHARS]
            self.domain.required = attributes.get("required") == "yes"
        elif where == "domain/devices/filesystem":
            self.socket = ""
        elif where == "domain/devices/filesystem/source":
            self.socket = attributes.get("socket", "")[:4096]
        elif where == "domain/devices/filesystem/target":
            self._note_folder(attributes.get("dir", "")[:TEXT_CHARS])
        elif self._is_argument() and len(self.words) < ARGUMENTS:
            self.words.append(attributes.get("value", "")[:4096])

    def _note_folder(self, tag: str) -> None:
        """Note a virtiofs device whose server libvirt does not start."""
        if not self.socket:
            return
        # guard: a domain has each place for a folder once
        if tag in self.domain.virtiofs or len(self.domain.virtiofs) >= FOLDERS:
            raise HookError(f"the domain has too many filesystems, or two named {tag}")
        self.domain.virtiofs[tag] = self.socket

    def _is_argument(self) -> bool:
        """<qemu:commandline><qemu:arg value='…'/>: QEMU's own words."""
        return [name.rpartition(" ")[2] for name in self.path[1:]] == [
            "commandline",
            "arg",
        ]

    def end(self, _name: str) -> None:
        if self.path == ["domain", "uuid"]:
            self.domain.uuid = self.collected.strip()
        self.path.pop()
        self.collected = ""

    def text(self, data: str) -> None:
        if self.path == ["domain", "uuid"] and len(self.collected) < TEXT_CHARS:
            self.collected += data[:TEXT_CHARS]

    def vhost_user(self) -> str | None:
        """Return the socket of a vhost-user-vsock character device."""
        names: set[str] = set()
        for word in self.words:
            if word.startswith("vhost-user-vsock"):
                names |= {o[8:] for o in word.split(",") if o.startswith("chardev=")}
        for word in self.words:
            options = word.split(",")
            if options[0] != "socket":
                continue
            found = dict(o.partition("=")[::2] for o in options[1:])
            if found.get("id") in names and found.get("path"):
                return found["path"]
        return None


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def runtime_directory(uid: int) -> str:
    """Return the directory of a user's sockets."""
    if uid != os.getuid():
        return f"/run/user/{uid}"
    if os.environ.get("XDG_RUNTIME_DIR"):
        return os.environ["XDG_RUNTIME_DIR"]
    try:
        with open(f"/proc/{os.getppid()}/environ", "rb") as file:
            words = file.read(1 << 20).split(b"\0")
    except OSError:
        words = []
    for word in words:
        name, _, value = word.partition(b"=")
        if name == b"XDG_RUNTIME_DIR" and value.startswith(b"/"):
            return os.fsdecode(value)
    return f"/run/user/{uid}"


def owner() -> int:
    """Return the uid of the user whose broker it is.  Raises HookError."""
    if os.getuid() != 0:
        return os.getuid()
    try:
        with open(SETTINGS, encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            # guard: libvirt's hook believes settings that only root can write
            if facts.st_uid != 0 or facts.st_mode & 0o022:
                raise HookError(f"users other than root can write to {SETTINGS}")
            uid = json.loads(file.read(4096))["uid"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise HookError(f"{SETTINGS}: {error}") from error
    if not isinstance(uid, int) or uid <= 0:
        raise HookError(f"{SETTINGS}: 'uid' must be the number of a user")
    return uid


def pid_of(name: str) -> int:
    """Read QEMU's pid from libvirt's file.  Raises HookError."""
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise HookError("the domain's name is not a file name")
    if os.getuid() == 0:
        path = f"/run/libvirt/qemu/{name}.pid"
    else:
        path = f"{runtime_directory(os.getuid())}/libvirt/qemu/run/{name}.pid"
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read(32))
    except (OSError, ValueError) as error:
        raise HookError(f"{path}: {error}") from error


def init_of(controller: int | None) -> int:
    """Return the first process of a container: a child of libvirt's controller.

    libvirt writes its number down after the hook has run.  Raises HookError.
    """
    path = f"/proc/{controller}/task/{controller}/children"
    try:
        with open(path, encoding="ascii") as file:
            children = [int(word) for word in file.read(4096).split()]
    except (OSError, ValueError) as error:
        raise HookError(f"{path}: {error}") from error
    # guard: a container's first process is the only one of its controller
    if len(children) != 1:
        raise HookError(f"{path} has {len(children)} processes; expected one")
    return children[0]


def leader_of(name: str, domain: Domain) -> int:
    """The pid by which the broker knows the domain.  Raises HookError."""
    return init_of(domain.controller) if domain.is_container else pid_of(name)


def call(path: str, parameters: dict[str, object], deadline: float) -> None:
    """Call the broker (varlink) and wait for its answer.  Raises HookError."""
    message = json.dumps({"method": METHOD, "parameters": parameters})
    end = time.monotonic() + deadline
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(deadline)
            uid = owner()
            connect_to_user(sock, path, uid)
            require_peer(sock, path, uid)
            sock.sendall(message.encode() + b"\0")
            data = b""
            while not data.endswith(b"\0"):
                left = end - time.monotonic()
                if left <= 0 or len(data) > ANSWER_BYTES:
                    raise HookError("the broker does not answer")
                sock.settimeout(left)
                chunk = sock.recv(65536)
                if not chunk:
                    raise HookError("the broker closed the connection")
                data += chunk
        answer = json.loads(data[:-1])
        if answer.get("error"):
            words = answer.get("parameters", {})
            raise HookError(str(words.get("message") or answer["error"])[:TEXT_CHARS])
    except OSError as error:
        raise HookError(f"cannot connect to the broker at {path}: {error}") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise HookError(f"the broker sent an invalid reply: {error}") from error


def report(event: str, name: str, domain: Domain) -> None:
    """Report a domain's step to the broker.  Raises HookError."""
    parameters: dict[str, object] = {
        "launcher": "libvirt-lxc" if domain.is_container else "libvirt",
        "event": event,
        "name": name,
        "uuid": domain.uuid,
        "record": domain.record,
        "cid": domain.cid,
        "vhost_user": domain.vhost_user,
        "leader": leader_of(name, domain) if event == "started" else None,
    }
    if domain.virtiofs:
        parameters["virtiofs"] = domain.virtiofs
    path = runtime_directory(owner()) + "/vitrail/control"
    call(path, parameters, DEADLINE[event])


def folders_of(uid: int) -> list[str]:
    """The directories of a user's records, in the order in which they win."""
    home = pwd.getpwuid(uid).pw_dir
    config = os.environ.get("XDG_CONFIG_HOME") if uid == os.getuid() else None
    bases = (runtime_directory(uid), config or f"{home}/.config", "/etc")
    return [f"{base}/vitrail/sandboxes.d" for base in bases]


def user_requires(uid: int, names: set[str] | None) -> bool:
    """Return whether a record of the user's says that this domain needs its lease.

    ``names`` are the domain's; None: they are not known.

    They are read by a process that has the user's rights and a deadline: root would
    open what a link points to, and wait for a file system that never answers.  Where it
    dies, what they say is not known, and the answer is yes.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # guard: a libvirt hook's child keeps no output of the hook's
            give_up_files(write)
            become(uid)
            # guard: a record takes little memory of a libvirt hook's child
            limit_memory()
            required = record_requires(folders_of(uid), names)
            os.write(write, b"1" if required else b"0")
        finally:
            os._exit(0)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], RECORDS_SECONDS)
        # guard: a record on which the libvirt hook's child dies is required
        return bool(ready) and os.read(read, 1) != b"0"
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        # Not waited for without end: it may hang in a file system of the user's.
        os.waitpid(child, os.WNOHANG)


def record_requires(folders: list[str], names: set[str] | None) -> bool:
    """Return whether a domain's record has ``required = true``; None: any domain's.

    Its own word counts, else that of the nearest record that it inherits from.
    """
    records = _read_records(folders)
    return any(
        _is_required(name, records)
        for name, record in records.items()
        if (record.domain in names if names is not None else record.domain)
    )


def _is_required(name: str, records: dict[str, RecordWords]) -> bool:
    """Return the nearest ``required`` of a record and its parents."""
    for _ in range(PARENTS + 1):
        record = records.get(name)
        if record is None:
            return False
        if record.required is not None:
            return record.required
        # guard: a lease that a parent record requires is required
        name = record.inherits
    return False


def _read_records(folders: list[str]) -> dict[str, RecordWords]:
    """Read each record by its name; the first directory wins."""
    found: dict[str, RecordWords] = {}
    for folder in folders:
        try:
            files = sorted(os.listdir(folder))[:RECORDS]
        except OSError:
            continue
        for file in files:
            name, dot, ending = file.rpartition(".")
            if dot and ending == "toml" and name not in found:
                found[name] = _words_of(os.path.join(folder, file))
    return found


def _words_of(path: str) -> RecordWords:
    """Return what a record says; nothing if it cannot be read."""
    try:
        return read_record(Path(path))
    except OSError:
        return RecordWords()


def printable(text: str) -> str:
    """The text without characters that a terminal would act on."""
    # guard: a hook's message is escaped
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)


def serve_domain(words: list[str]) -> int:
    """Return the exit code: 1 keeps the domain from starting."""
    if len(words) < 3:
        sys.stderr.write("vitrail: this is a hook of libvirt: see libvirt.org/hooks\n")
        return 0
    name, step, substep = words[:3]
    event = STEPS.get((step, substep))
    if event is None:
        return 0
    domain = Domain()
    try:
        read_domain(sys.stdin.buffer.read(XML_BYTES), domain)
        report(event, name, domain)
    except HookError as error:
        text = f"vitrail: cannot lease domain {name[:100]}: {error}"
        sys.stderr.write(printable(text) + "\n")
        return 1 if event == "prepare" and must_have(name, domain) else 0
    return 0


def must_have(name: str, domain: Domain) -> bool:
    """Return whether a domain must not start without its lease."""
    # guard: a domain whose XML is refused keeps its own requirement
    if domain.required:
        return True
    # Without the whole XML its uuid may be missing, so any domain's record counts.
    # guard: a domain whose XML is refused may be that of any record
    names = {name, domain.uuid} - {""} if domain.complete else None
    try:
        return user_requires(owner(), names)
    except (HookError, OSError, KeyError) as error:
        text = f"vitrail: cannot read the records: {error}"
        sys.stderr.write(printable(text) + "\n")
        return False
