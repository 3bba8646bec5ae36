#!/usr/bin/python3
"""OCI hook: leases a container to Vitrail's broker before its program runs.

Called by Podman (oci-hooks(5)) for a container with the annotation
``io.vitrail.sandbox=RECORD``, in two stages:

* ``precreate``: the container's configuration is on standard input, and is written
  to standard output with the directory of its sockets mounted into it.
* ``createRuntime``: its first process exists and has not run anything; the broker
  leases the sandbox to it.

Nothing is to be done at its end: the broker holds a pidfd of the first process.

A container must not fail to start because of us.  So whatever goes wrong, broker
absent, slow or refusing, a malformed state, this process killed, it starts without
display and sound, unless its record says ``required = true`` (or the annotation
``io.vitrail.required=true``): then it does not start.

Podman gives a container the annotations of its image, too.  An image is a stranger's,
so only annotations that Podman's command line, or a file of the user's, has given
count: see ``refuse_annotations_of_image``; of others that a runtime may obey a leased
container has none: see ``remove_annotations_of_image``.

A container of root's is leased by the broker of the user that ``--settings`` names;
see ``vitrail_oci_rootful.py``, which is installed beside this file then.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import re
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

Json = Any
"""A JSON document that has not been looked at."""

Module = Any
"""``vitrail_oci_rootful``, or an object of it: a hook without root does not load it."""

SANDBOX = "io.vitrail.sandbox"
REQUIRED = "io.vitrail.required"
ALL_IDS = (0, 0, 4294967295)
"""The line of /proc/self/uid_map that says: no user namespace."""
OURS = "io.vitrail.ours"
LAUNCH = "io.vitrail.launch"
PREFIX = "io.vitrail."
PODMANS = (PREFIX, "io.podman.", "io.container.", "org.opencontainers.")
"""Beginnings of annotations that Podman gives itself and no runtime obeys."""
STORAGE_ID = re.compile(r"[0-9a-f]{64}")
MANIFEST_BYTES = 8 << 20
INSIDE = "/run/vitrail"
INTERFACE = "io.vitrail.Broker"
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
LAUNCH_ID = re.compile(r"[0-9a-f]{12}")
YES = {"1", "true", "yes"}
ALLOW = "SCMP_ACT_ALLOW"
PERMITTING = {ALLOW, "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"}
SOCKET_WAYS = {"socket", "socketcall", "io_uring_setup"}
"""System calls by which a program gets a socket of any family."""
FAMILIES = 46
"""Address families of Linux (AF_MAX)."""
HUGE_PAGES = {
    "mmap": (3, 0x40000),
    "mmap2": (3, 0x40000),
    "memfd_create": (1, 0x4),
    "shmget": (2, 0o4000),
}
"""System calls that take huge pages: MAP_HUGETLB and others, and their argument."""
POOLS = {
    "io_setup": errno.ENOSYS,
    "keyctl": errno.EPERM,
    "add_key": errno.EPERM,
    "request_key": errno.EPERM,
}
"""System calls that take from what a user or the machine has once, and the answer."""
TERMINALS = 128
"""Pseudo-terminals of a container; all together have 3,072."""
OPEN_FILES = 700
"""Where the broker's answer has no number."""
DEADLINE_SECONDS = 8.0
"""For the broker, all in all; below the timeout in the hook's JSON."""
PEER_CREDENTIALS = (socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
RETRY_SECONDS = 0.05
INPUT_BYTES = 16 << 20
REPLY_BYTES = 1 << 20
FILE_BYTES = 1 << 16
LINE_CHARS = 4096
"""The broker refuses a longer record or line; a parser of TOML takes memory by the square
of a dotted key's length."""
CHILD_BYTES = 1 << 30
"""Address space of the process that reads the record."""
LOG_BYTES = 65536
PARENTS = 16
"""Records that a record may inherit from, one after the other."""


class LeaseError(Exception):
    """No lease; the text says why."""


def log(text: str) -> None:
    """Write a line to standard error, where Podman shows it for a failed start."""
    safe = text.encode("ascii", "backslashreplace").decode()
    print(
        "vitrail: " + "".join(c if c.isprintable() else "?" for c in safe),
        file=sys.stderr,
    )


# -- the broker ------------------------------------------------------------------


class Broker:
    """Calls of the broker's varlink interface, all within one deadline."""

    def __init__(self, path: str, uid: int, deadline: float) -> None:
        self._path = path
        self._uid = uid
        self._deadline = deadline

    def call(
        self, method: str, parameters: Dict[str, Any], *, patient: bool
    ) -> Dict[str, Any]:
        """Call a method; ``patient`` waits for a broker that is being restarted."""
        while True:
            try:
                return self._once(method, parameters)
            except (FileNotFoundError, ConnectionRefusedError) as error:  # noqa: PERF203
                if not patient or time.monotonic() + RETRY_SECONDS > self._deadline:
                    raise LeaseError(
                        f"cannot connect to {self._path}: {error}"
                    ) from error
                time.sleep(RETRY_SECONDS)
            except OSError as error:
                raise LeaseError(f"the broker does not answer: {error}") from error

    def _connect(self, sock: socket.socket) -> None:
        """Connect to the user's socket: a link there may lead to one of root's."""
        place = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(place)
            # guard: a hook of root's connects to a socket of its user's
            if not stat.S_ISSOCK(facts.st_mode) or facts.st_uid != self._uid:
                raise LeaseError(f"{self._path} is not a socket of user {self._uid}")
            sock.connect(f"/proc/self/fd/{place}")
        finally:
            os.close(place)

    def _once(self, method: str, parameters: Dict[str, Any]) -> Dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(self._left())
            self._connect(sock)
            uid = struct.unpack("3i", sock.getsockopt(*PEER_CREDENTIALS))[1]
            # guard: the hook speaks with a broker of its user's
            if uid != self._uid:
                raise LeaseError(f"another user serves {self._path}")
            request = {"method": f"{INTERFACE}.{method}", "parameters": parameters}
            sock.sendall(json.dumps(request).encode() + b"\0")
            reply = b""
            while not reply.endswith(b"\0"):
                sock.settimeout(self._left())
                more = sock.recv(65536)
                if not more or len(reply) > REPLY_BYTES:
                    raise LeaseError("the broker closed the connection")
                reply += more
        return take_reply(reply[:-1])

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise LeaseError(
                f"the broker did not answer within {DEADLINE_SECONDS:.0f} s"
            )
        return left


def take_reply(reply: bytes) -> Dict[str, Any]:
    """Return a reply's parameters; raises LeaseError with the broker's reason."""
    try:
        answer = json.loads(reply)
        parameters = answer.get("parameters") or {}
        if "error" in answer:
            reason = parameters.get("message") or answer["error"]
            raise LeaseError(f"the broker rejected the request: {reason}")
    except (ValueError, AttributeError, RecursionError) as error:
        raise LeaseError(f"the broker sent an invalid reply: {error}") from error
    if not isinstance(parameters, dict):
        raise LeaseError("the broker sent an invalid reply")
    return parameters


# -- what the container and its record say -------------------------------------------


def annotations_of(document: Json) -> Dict[str, str]:
    """Return the annotations of a configuration or state; {} for anything else."""
    found = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def is_required(annotations: Dict[str, str], records: List[str]) -> bool:
    """Return whether a container must not start without its lease."""
    if annotations.get(REQUIRED, "").lower() in YES:
        return True
    name = annotations.get(SANDBOX, "")
    for _ in range(PARENTS):
        if not NAME.fullmatch(name):
            return False
        launch, name = _read_record(name, records)
        if launch is not None:
            return bool(launch)
    return False


def _read_record(name: str, records: List[str]) -> Json:
    """Return what the first record of this name says, and which one it inherits."""
    for directory in records:
        try:
            text = _read_regular(Path(directory, name + ".toml"))
        except FileNotFoundError:
            continue
        except OSError as error:
            log(f"cannot read {name}.toml: {error}")
            return None, ""
        return _in_record(text)
    return None, ""


def _read_regular(path: Path) -> str:
    """Read a regular file that does not block its reader.  Raises OSError."""
    with open(path, "rb", opener=_without_waiting) as file:
        # guard: a container's record is a regular file
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("the file is not a regular file")
        return file.read(FILE_BYTES + 1).decode("utf-8", "replace")


def _without_waiting(path: str, flags: int) -> int:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # guard: a record is not opened in a file system that a program serves
        if _on_fuse(place):
            raise OSError("the file is in a FUSE file system")
        again = f"/proc/self/fd/{place}"
        return os.open(again, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(place)


def _on_fuse(fd: int) -> bool:
    """Return whether a file is on FUSE, whose program may never answer."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        found = (line.split() for line in file)
        fields = next((one for one in found if one[0] == mount), ["-", "fuse"])
    return fields[fields.index("-") + 1].startswith("fuse")


def _in_record(text: str) -> Json:
    try:
        import tomllib

        _require_size(text)
        values = tomllib.loads(text)
        launch = values.get("launch", {}).get("required")
        parent = values.get("inherits", "")
    except (ImportError, ValueError, AttributeError, RecursionError, MemoryError):
        # Python before 3.11, or a record with a mistake, which the broker denies:
        # the word alone decides then.
        # Not \s, which has line ends, each of which would be a beginning.
        found = re.search(r"(?m)^[ \t]*required[ \t]*=[ \t]*(true|false)\b", text)
        launch = None if found is None else found.group(1) == "true"
        origin = re.search(
            r"(?m)^[ \t]*inherits[ \t]*=[ \t]*[\"']([a-z0-9-]+)[\"']", text
        )
        parent = "" if origin is None else origin.group(1)
    return (launch if isinstance(launch, bool) else None), str(parent)


def _require_size(text: str) -> None:
    """Raise ValueError for a record that the broker refuses for its size."""
    longest = max(map(len, text.split("\n")))
    # guard: a container's hook parses no record that the broker refuses for its size
    if len(text) > FILE_BYTES or longest > LINE_CHARS:
        raise ValueError("the record is too long")


# -- whose annotations they are ---------------------------------------------------------


def refuse_annotations_of_image(
    config: Json, annotations: Dict[str, str], command_line: List[str]
) -> None:
    """Raise LeaseError for our annotations that may be the image's own.

    They are the user's when each is on Podman's command line, or when Podman's
    storage shows that the image has none (``podman start``, annotations of a file).
    """
    wanted = {f"{key}={value}" for key, value in annotations.items() if _is_ours(key)}
    # guard: an image does not set our annotations
    if wanted <= typed_annotations(command_line):
        return
    root = config.get("root") if isinstance(config, dict) else None
    path = root.get("path") if isinstance(root, dict) else None
    names = image_names(path) if isinstance(path, str) else None
    if names is None:
        raise LeaseError(
            "cannot find out whether the annotation comes from the image: pass it with 'podman "
            "run --annotation'"
        )
    if any(map(_is_ours, names)):
        raise LeaseError("the image must not have annotations for Vitrail")


def remove_annotations_of_image(config: Json, command_line: List[str]) -> None:
    """Take the annotations of the image out of a container's configuration.

    Runtimes obey some: crun's ``run.oci.`` replace the filter of system calls
    (``seccomp_bpf_data``) and write a file outside (``hooks.stderr``), and
    ``org.systemd.property.`` are properties of a unit at the user's systemd.  What the
    image has not, Podman has given for its options (``--group-add keep-groups``).
    """
    typed = typed_annotations(command_line)
    given = annotations_of(config)
    # guard: a runtime obeys no annotation of an image
    foreign = {key for key in given if not _is_podmans(key, given[key], typed)}
    if not foreign:
        return
    root = config.get("root")
    path = root.get("path") if isinstance(root, dict) else None
    names = image_names(path) if isinstance(path, str) else None
    for key in foreign if names is None else foreign & names:
        log(f"an annotation that may be the image's is left out: {key}")
        del config["annotations"][key]


def _is_podmans(key: str, value: str, typed: Set[str]) -> bool:
    return key.startswith(PODMANS) or f"{key}={value}" in typed


def _is_ours(key: str) -> bool:
    return key.startswith(PREFIX) and key != LAUNCH


def typed_annotations(words: List[str]) -> Set[str]:
    """Return the values of ``--annotation`` on a command line."""
    option = "--annotation"
    behind = {word for before, word in zip(words, words[1:]) if before == option}
    joined = {word for word in words if word.startswith(option + "=")}
    return behind | {word[len(option) + 1 :] for word in joined}


def command_line_of(pid: int) -> List[str]:
    """Return a process's command line; nothing where it has ended."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return data.decode("utf-8", "surrogateescape").split("\0")


def image_names(root: str) -> Optional[Set[str]]:
    """Return every name in the manifests of the image behind a container's root.

    ``GRAPH/overlay/LAYER/merged``, or ``GRAPH/vfs/dir/LAYER``: the lists of containers
    beside it name the image.  None where that is not found.
    """
    parts = Path(root).parts
    layers = [number for number, p in enumerate(parts) if STORAGE_ID.fullmatch(p)]
    for number in layers[-1:]:
        above = Path(*parts[:number])
        for driver in (above, above.parent):
            image = _image_of(
                driver.with_name(driver.name + "-containers"), parts[number]
            )
            if image is not None:
                return _names_in(driver.with_name(driver.name + "-images") / image)
    return None


def _image_of(folder: Path, layer: str) -> Optional[str]:
    for name in ("containers.json", "volatile-containers.json"):
        for entry in _document(folder / name) or []:
            if isinstance(entry, dict) and entry.get("layer") == layer:
                image = entry.get("image")
                if isinstance(image, str) and STORAGE_ID.fullmatch(image):
                    return image
    return None


def _names_in(folder: Path) -> Optional[Set[str]]:
    """Return every name in every manifest: Podman chooses which of them it reads."""
    found: Set[str] = set()
    try:
        files = [path for path in folder.iterdir() if _is_manifest(path.name)]
    except OSError:
        return None
    for path in files:
        if _document(path, found) is None:
            return None
    return found if files else None


def _is_manifest(name: str) -> bool:
    # A name with other characters is in base64, after "=" (containers/storage).
    return name == "manifest" or name.startswith("=bWFuaWZlc3Q")


def _document(path: Path, names: Optional[Set[str]] = None) -> Json:
    """Return a JSON document; ``names`` gets the names of all its objects' members."""
    seen: Set[str] = set() if names is None else names

    def note(pairs: List[Tuple[str, Json]]) -> Dict[str, Json]:
        seen.update(key for key, _ in pairs)
        return dict(pairs)

    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_BYTES).decode("utf-8", "replace")
        return json.loads(text, object_pairs_hook=note)
    except (OSError, ValueError, RecursionError):
        return None


# -- stages ---------------------------------------------------------------------------


class Hook:
    """One call of the hook: whose container it is, and the deadline."""

    def __init__(self, words: argparse.Namespace, *, of_root: bool) -> None:
        self.deadline = time.monotonic() + words.seconds
        self.command_line = command_line_of(os.getppid())
        self.records: List[str] = words.records
        self.rootful: Module = None
        self.person: Module = None
        self._control: str = words.control or ""
        self.refused = ""
        if words.settings is not None:
            # Beside this file: bytecode there has the caller's umask, and root runs it.
            # guard: root's hook leaves no program that others can write
            sys.dont_write_bytecode = True
            self.rootful = importlib.import_module("vitrail_oci_rootful")
            self._take_person(words.settings)
            return
        # guard: a container of root's is leased by root's own hook alone
        if of_root:
            self.refused = "the container runs as root: to install root's hook, run 'sudo brokerctl launcher install podman'"

    def _take_person(self, settings: str) -> None:
        try:
            self.person = self.rootful.take_person(settings)
            self.records, self._control = self.person.records, self.person.control
        except self.rootful.RefusedError as error:
            self.refused = str(error)

    def broker(self) -> Broker:
        """The broker that leases it."""
        uid = os.geteuid() if self.person is None else self.person.uid
        return Broker(self._control, uid, self.deadline)

    def serve(self, stage: str, text: str) -> str:
        """Do one stage's work; returns its output, raises LeaseError."""
        if self.refused:
            raise LeaseError(self.refused)
        document = json.loads(text)
        return STAGES[stage](self, document, annotations_of(document))

    def required(self, annotations: Dict[str, str]) -> str:
        """Return "yes" for a lease that the record requires, else "no"."""
        if self.person is not None:
            self.rootful.become(self.person.uid)
        # guard: a record takes little memory of a container hook's child
        resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))
        return "yes" if is_required(annotations, self.records) else "no"


def precreate(hook: Hook, config: Json, annotations: Dict[str, str]) -> str:
    """Return the configuration with the sockets' directory; raises LeaseError."""
    refuse_annotations_of_image(config, annotations, hook.command_line)
    name = annotations[SANDBOX]
    if not NAME.fullmatch(name):
        raise LeaseError(f"the annotation {SANDBOX} is not the name of a record")
    # A user's broker cannot end root's containers: they are not its own.
    ours = hook.person is None and annotations.get(OURS, "").lower() in YES
    if hook.person is not None:
        _rootful(hook, "require_confined", config)
    request = {"record": name, "ours": ours}
    answer = hook.broker().call("LaunchPrepare", request, patient=False)
    launch, directory = answer.get("id"), answer.get("directory")
    if not isinstance(launch, str) or not isinstance(directory, str):
        raise LeaseError("the broker sent a reply without a launch")
    if not LAUNCH_ID.fullmatch(launch):
        raise LeaseError("the broker sent a reply without a launch")
    if hook.person is not None:
        directory = _rootful(hook, "mount_sockets", hook.person, launch, directory)
    try:
        remove_annotations_of_image(config, hook.command_line)
        enter(config, launch, directory)
        limit_open_files(config, answer.get("open_files"))
        limit_terminals(config)
        if ours:
            close_vsock(config)
            close_pools(config)
    except (KeyError, TypeError, AttributeError) as error:
        if hook.person is not None:
            _rootful(hook, "unmount_sockets", launch)
        raise LeaseError(f"invalid container configuration: {error!r}") from error
    return json.dumps(config)


def _rootful(hook: Hook, name: str, *words: Json) -> Json:
    try:
        return getattr(hook.rootful, name)(*words)
    except hook.rootful.RefusedError as error:
        raise LeaseError(str(error)) from error


def is_roots(uid: int, uid_map: str) -> bool:
    """Return whether the hook runs for root, and not for rootless Podman."""
    return uid == 0 and tuple(int(word) for word in uid_map.split()) == ALL_IDS


def enter(config: Json, launch: str, directory: str) -> None:
    """Add mounts, environment and the launch's id to a configuration."""
    process = config["process"]
    uid, gid = int(process["user"]["uid"]), int(process["user"]["gid"])
    runtime = f"/run/user/{uid}"
    mounts = config.setdefault("mounts", [])
    mounts.append(
        {
            "destination": INSIDE,
            "type": "bind",
            "source": directory,
            # Read-only: it may connect, and make, move or remove nothing there.
            "options": ["bind", "ro", "nosuid", "nodev", "noexec", "private"],
        }
    )
    pulse = dict(mounts[-1], destination=runtime + "/pulse")
    taken = {mount.get("destination") for mount in mounts}
    if runtime not in taken:
        options = ["nosuid", "nodev", "mode=0700", f"uid={uid}", f"gid={gid}"]
        mounts.append(
            {
                "destination": runtime,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": [*options, "size=65536k"],
            }
        )
        # Where a program looks that was started without PULSE_SERVER: the directory
        # has "native", a link to the socket of the sound service beside it.
        mounts.append(pulse)
    values = {
        "XDG_RUNTIME_DIR": runtime,
        "WAYLAND_DISPLAY": f"{INSIDE}/wayland-0",
        "PULSE_SERVER": f"unix:{INSIDE}/vitrail.Audio",
    }
    gone = {*values, "DISPLAY", "WAYLAND_SOCKET", "XAUTHORITY"}
    kept = [w for w in process.get("env", []) if w.partition("=")[0] not in gone]
    if not any(word.startswith("SSH_AUTH_SOCK=") for word in kept):
        values["SSH_AUTH_SOCK"] = f"{INSIDE}/vitrail.SshAgent"
    process["env"] = kept + [f"{key}={value}" for key, value in values.items()]
    config.setdefault("annotations", {})[LAUNCH] = launch


def limit_open_files(config: Json, most: Json) -> None:
    """Lower the number of files that the container's programs may have open.

    The kernel counts the descriptors in flight on UNIX sockets for the user, and holds
    each sender to its limit (unix(7), ETOOMANYREFS): a container that may have many
    open keeps every other program of the user from passing one.
    """
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        most = OPEN_FILES
    process = config["process"]
    limits = process.get("rlimits") or []
    # Not above our own, which the runtime may be unable to raise.
    bounds = [most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]]
    others = []
    for limit in limits:
        if limit["type"] == "RLIMIT_NOFILE":
            bounds += [limit["hard"], limit["soft"]]
        else:
            others.append(limit)
    least = min(bound for bound in bounds if bound >= 0)
    number = {"type": "RLIMIT_NOFILE", "hard": least, "soft": least}
    # guard: a container with the user's command opens few files
    process["rlimits"] = [*others, number]


def close_vsock(config: Json) -> None:
    """Take AF_VSOCK out of the container's filter of system calls.

    Network namespaces do not divide it: a container without a network could speak with
    machines.  A rule compares 64 bits and the kernel takes 32 of the family, so each
    family that may be is named.  32-bit programs of x86 have ``socketcall``, whose
    family no filter sees: the kernel ends them.
    """
    linux = config.setdefault("linux", {})
    given = linux.get("seccomp")
    if not isinstance(given, dict):
        given = {"defaultAction": ALLOW}
    rules: List[Json] = []
    for rule in given.get("syscalls") or []:
        ways = SOCKET_WAYS.intersection(rule["names"])
        if not ways or rule["action"] not in PERMITTING:
            rules.append(rule)
            continue
        others = [name for name in rule["names"] if name not in SOCKET_WAYS]
        if others:
            rules.append(dict(rule, names=others))
        if "socket" in ways:
            rules += [one for one in _by_family(rule) if one not in rules]
    if given["defaultAction"] in PERMITTING:
        refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EAFNOSUPPORT}
        vsock = {"index": 0, "value": 0xFFFFFFFF, "valueTwo": socket.AF_VSOCK}
        masked = [dict(vsock, op="SCMP_CMP_MASKED_EQ")]
        rules.append(dict(refused, names=["socket"], args=masked))
        rules.append(dict(refused, names=sorted(SOCKET_WAYS - {"socket"})))
    # guard: our containers have no AF_VSOCK
    linux["seccomp"] = dict(given, syscalls=rules)
    architectures = linux["seccomp"].pop("architectures", [])
    # guard: our containers have no 32-bit calls of x86
    architectures = [one for one in architectures if one != "SCMP_ARCH_X86"]
    if architectures:
        linux["seccomp"]["architectures"] = architectures


def close_pools(config: Json) -> None:
    """Take huge pages, aio and keys out of the filter that ``close_vsock`` has made.

    The kernel has one pool of pages for the machine, whose user reserves it for micro
    VMs, and 65,536 contexts of aio (fs.aio-max-nr), which one call can take.  A user has
    200 keys (kernel.keys.maxkeys), without which no other container starts; runtimes
    take theirs before the filter is there.
    """
    given = config["linux"]["seccomp"]
    rules: List[Json] = []
    for rule in given["syscalls"]:
        if rule["action"] not in PERMITTING:
            rules.append(rule)
            continue
        names = [name for name in rule["names"] if name in HUGE_PAGES]
        # guard: our containers take no aio and no keys
        others = [n for n in rule["names"] if n not in names and n not in POOLS]
        if others:
            rules.append(dict(rule, names=others))
        for name in names:
            without = [*(rule.get("args") or []), _huge(name, wanted=False)]
            rules.append(dict(rule, names=[name], args=without))
    if given["defaultAction"] in PERMITTING:
        refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOMEM}
        rules += [
            dict(
                refused,
                names=[name],
                args=[_huge(name, wanted=True)],
                # Chromium asks with all flags at once, and ends unless that is EINVAL.
                errnoRet=errno.EINVAL if name == "memfd_create" else errno.ENOMEM,
            )
            for name in HUGE_PAGES
        ]
        for name, answer in POOLS.items():
            rules.append(dict(refused, names=[name], errnoRet=answer))
    # guard: our containers take no huge pages
    given["syscalls"] = rules


def _huge(name: str, *, wanted: bool) -> Json:
    """Return the condition that a call wants huge pages, or does not."""
    index, flag = HUGE_PAGES[name]
    value = flag if wanted else 0
    op = "SCMP_CMP_MASKED_EQ"
    return {"index": index, "value": flag, "valueTwo": value, "op": op}


def limit_terminals(config: Json) -> None:
    """Limit the container's pseudo-terminals, which the kernel counts for the machine."""
    for mount in config.get("mounts") or []:
        if mount.get("type") == "devpts":
            # The last one holds.
            # guard: a container takes few of the machine's terminals
            mount["options"] = [*(mount.get("options") or []), f"max={TERMINALS}"]


def _by_family(rule: Json) -> List[Json]:
    """Split a rule that permits sockets: one for each family but AF_VSOCK."""
    conditions = rule.get("args") or []
    numbers = [condition["index"] for condition in conditions]
    found = []
    # Conditions on the same argument are alternatives to a runtime.
    doubled = len(set(numbers)) < len(numbers)
    for together in [[one] for one in conditions] if doubled else [conditions]:
        others = [one for one in together if one["index"] != 0]
        for family in range(FAMILIES):
            holds = all(_holds(one, family) for one in together if one["index"] == 0)
            # guard: the families of our containers lack AF_VSOCK
            if not holds or family == socket.AF_VSOCK:
                continue
            equal = {"index": 0, "value": family, "op": "SCMP_CMP_EQ"}
            found.append(dict(rule, names=["socket"], args=[equal, *others]))
    return found


def _holds(condition: Json, value: int) -> bool:
    wanted = int(condition["value"])
    return {
        "SCMP_CMP_NE": value != wanted,
        "SCMP_CMP_LT": value < wanted,
        "SCMP_CMP_LE": value <= wanted,
        "SCMP_CMP_EQ": value == wanted,
        "SCMP_CMP_GE": value >= wanted,
        "SCMP_CMP_GT": value > wanted,
        "SCMP_CMP_MASKED_EQ": value & wanted == int(condition.get("valueTwo") or 0),
    }[condition["op"]]


def create_runtime(hook: Hook, state: Json, annotations: Dict[str, str]) -> str:
    """Have the broker lease the container's first process; raises LeaseError."""
    launch = annotations.get(LAUNCH, "")
    if not LAUNCH_ID.fullmatch(launch):
        raise LeaseError("the container was created without its launch")
    if hook.person is not None:
        _rootful(hook, "unmount_sockets", launch)
        _rootful(hook, "require_own_namespaces", state.get("pid"))
    pid = state.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 1:
        raise LeaseError("the container's state has no process")
    request = {"id": launch, "leader": pid}
    hook.broker().call("LaunchBind", request, patient=True)
    return ""


STAGES = {"precreate": precreate, "createRuntime": create_runtime}


# -- the process around it --------------------------------------------------------------


def in_child(what: str, work: Callable[[], str], deadline: float) -> Optional[str]:
    """Do the work in a child, whose death or silence is a failure like any other.

    Returns None for a failure; the reason is on standard error.
    """
    read_end, write_end = os.pipe()
    read_log, write_log = os.pipe()
    child = os.fork()
    if child == 0:
        # guard: a container hook's child keeps no output of the hook's
        _give_up_files(write_end, write_log)
        code = 1
        try:
            output = work()
            with os.fdopen(write_end, "w") as file:
                file.write(output + "\n")
            code = 0
        except LeaseError as error:
            log(str(error))
        except BaseException as error:
            log(f"internal error in the hook: {error!r}")
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    os.close(write_log)
    data = _read_all(read_end, deadline)
    os.kill(child, signal.SIGKILL)  # it is ours until it is waited for
    status = _waited(child)
    _show(read_log)
    if data is None or not data.endswith(b"\n"):
        log(f"no {what}" + (" (killed)" if os.WIFSIGNALED(status) else ""))
        return None
    return data[:-1].decode()


def _give_up_files(output: int, log_end: int) -> None:
    """Keep nothing open but two pipes, whose other ends wait with a deadline.

    A child that cannot be killed, as in a user's file system, keeps what it has: the
    hook's own output would not end for who reads it, which is Podman.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log_end, 2)
    os.closerange(3, output)
    os.closerange(output + 1, os.sysconf("SC_OPEN_MAX"))


def _show(log_end: int) -> None:
    """Print what a child has written, as far as it is there."""
    os.set_blocking(log_end, False)
    try:
        sys.stderr.write(os.read(log_end, LOG_BYTES).decode("ascii", "replace"))
        sys.stderr.flush()
    except BlockingIOError:
        pass  # nothing, and the child lives
    finally:
        os.close(log_end)


def _waited(child: int) -> int:
    """Return the status of a killed child, without waiting for one that hangs.

    In a file system of the user's, it ends when that answers.
    """
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return status
        time.sleep(RETRY_SECONDS)
    return signal.SIGKILL


def _read_all(fd: int, deadline: float) -> Optional[bytes]:
    data = b""
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return None
            more = os.read(fd, 65536)
            if not more:
                return data
            data += more
    finally:
        os.close(fd)


def without_launch(text: str) -> str:
    """Return the configuration as it came, without a launch that is not from us."""
    try:
        config = json.loads(text)
        if config["annotations"].pop(LAUNCH, None) is None:
            return text
        return json.dumps(config)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text


def lease(hook: Hook, stage: str, text: str, annotations: Dict[str, str]) -> Json:
    """Return the stage's output, None without a lease, and whether one is required."""
    if SANDBOX not in annotations:
        log(f"no annotation {SANDBOX} found: starting without Vitrail")
        return None, False
    # Read by a separate process: a user's file must not hold root up.
    answer = in_child("record", lambda: hook.required(annotations), hook.deadline)
    output = in_child(
        f"lease at {stage}", lambda: hook.serve(stage, text), hook.deadline + 1
    )
    by_annotation = annotations.get(REQUIRED, "").lower() in YES
    # Without an answer it is not known what the record says.
    # guard: a record on which a container hook's child dies is required
    return output, by_annotation or answer != "no"


def main() -> int:
    """Serve one stage; returns 1 only where a required lease is not to be had."""
    parser = argparse.ArgumentParser(description="OCI hook of Vitrail, for Podman")
    parser.add_argument("stage", choices=sorted(STAGES))
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--control", metavar="PATH")
    whose.add_argument("--settings", metavar="PATH")
    parser.add_argument("--records", action="append", default=[], metavar="DIRECTORY")
    parser.add_argument("--seconds", type=float, default=DEADLINE_SECONDS)
    words = parser.parse_args()
    text = sys.stdin.buffer.read(INPUT_BYTES).decode("utf-8", "surrogateescape")
    try:
        annotations = annotations_of(json.loads(text))
    except (ValueError, RecursionError):
        annotations = {}
    of_root = is_roots(os.geteuid(), Path("/proc/self/uid_map").read_text())
    output: Optional[str] = None
    required = False
    if words.settings is not None and not of_root:
        # Rootless Podman reads root's hooks, too, and has one of its own.
        output = text if words.stage == "precreate" else ""
    else:
        hook = Hook(words, of_root=of_root)
        output, required = lease(hook, words.stage, text, annotations)
    # guard: a required lease stops the container
    if output is None and required:
        log("cannot start the container: its record requires a lease")
        return 1
    if words.stage == "precreate":
        plain = without_launch(text) if output is None else output
        sys.stdout.buffer.write(plain.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
