"""Containers that root starts with Podman: whose broker, and how its sockets get in.

The hook calls it for containers of root's alone.  Root acts
here for a user, so nothing that the user can change decides what root does:

* whose broker it is comes from a file that only root can write;
* a user's records are read with that user's rights;
* the directory of the sockets is opened without following a link of the user's, and
  mounted at a place of root's, by which the runtime finds it;
* a container that could leave its namespaces by a capability gets no lease, because its
  root is the machine's.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, List

from shims.hooks.oci_annotations import Json
from shims.hooks.user_socket import HookError

if TYPE_CHECKING:
    import ctypes

PLACES = "/run/vitrail-oci"
"""Where root mounts directories of sockets until their container has them."""
OLD_SECONDS = 120.0
"""A place that is older was left by a hook that was killed."""
SETTINGS_BYTES = 1 << 16
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_PRIVATE = 32, 4096, 1 << 18
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
"""mount(2), umount2(2)."""
HARMLESS = frozenset(
    "CAP_" + word
    for word in [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
)
"""What Podman and Docker give to a container without being asked.  Others reach files,
processes or memory outside (capabilities(7)), and later kernels add more."""
DEVICES = {("c", 1): {3, 5, 7, 8, 9}, ("c", 5): {0, 1, 2}, ("c", 10): {229}}
"""null, zero, full, random, urandom; tty, console, ptmx; fuse
(Documentation/admin-guide/devices.txt)."""
MAJORS = {("c", 136), ("c", 226)}
"""Terminals (pts) and graphics (DRM), with any minor."""
OWN_NAMESPACES = {"pid": "pid", "mount": "mnt", "user": "user"}
"""Of config.json, and their names in /proc/PID/ns."""


class Person:
    """Whose broker leases root's containers."""

    def __init__(self, uid: int, runtime: str, records: List[str]) -> None:
        self.uid = uid
        self.runtime = runtime
        self.records = records

    @property
    def control(self) -> str:
        """Their broker's control socket."""
        return f"{self.runtime}/vitrail/control"


def take_person(path: str) -> Person:
    """Read the settings: ``{"uid": 1000, "runtime": …, "records": […]}``.

    Raises HookError for a file that others than root can write, too.
    """
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            # guard: root's settings are root's alone
            if facts.st_uid != 0 or facts.st_mode & 0o022:
                raise HookError(f"users other than root can write to {path}")
            values = json.loads(file.read(SETTINGS_BYTES))
        uid, runtime, records = values["uid"], values["runtime"], values["records"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise HookError(f"{path}: {error!r}") from error
    if not isinstance(uid, int) or isinstance(uid, bool) or uid <= 0:
        raise HookError(f"{path}: 'uid' must be the number of a user")
    paths = [runtime, *records] if isinstance(records, list) else [None]
    if not all(isinstance(one, str) and one.startswith("/") for one in paths):
        raise HookError(f"{path}: 'runtime' and 'records' must be absolute paths")
    return Person(uid, runtime, records)


def require_confined(config: Json) -> None:
    """Raise HookError for a container whose root could leave it."""
    try:
        _require_namespaces(config["linux"])
        if any(entry["type"] == "user" for entry in config["linux"]["namespaces"]):
            _require_other_ids(config["linux"])
        else:  # capabilities count within a user namespace only
            _require_harmless(config)
            _require_devices(config["linux"])
            _require_closed_proc(config["linux"])
    except (KeyError, TypeError, AttributeError) as error:
        raise HookError(f"invalid container configuration: {error!r}") from error


def _require_namespaces(linux: Json) -> None:
    """Raise HookError for a namespace of the host or another process."""
    found = {entry["type"]: entry.get("path") for entry in linux["namespaces"]}
    missing = sorted({"pid", "mount"} - found.keys())
    # guard: a container in the host's namespaces gets no lease of root's
    if missing:
        raise HookError(
            f"the container shares the host's {' and '.join(missing)} namespace"
        )
    joined = sorted(kind for kind in OWN_NAMESPACES if found.get(kind))
    # guard: a container of root's joins no namespace of another process
    if joined:
        raise HookError(f"the container joins another {joined[0]} namespace")


def _require_other_ids(linux: Json) -> None:
    # guard: a user namespace that has the machine's root confines nobody
    if not all(
        entry["hostID"] > 0 for entry in linux["uidMappings"] + linux["gidMappings"]
    ):
        raise HookError("the container's user namespace maps root of the host")


def _require_harmless(config: Json) -> None:
    """Raise HookError for capabilities that lead out of it."""
    sets = (config["process"].get("capabilities") or {}).values()
    kinds = {entry["type"] for entry in config["linux"]["namespaces"]}
    # Without a network of its it would read all that the machine sends.
    harmless = HARMLESS if "network" in kinds else HARMLESS - {"CAP_NET_RAW"}
    found = {word for words in sets for word in words or ()} - harmless
    # guard: a container of root's that can leave it gets no lease
    if found:
        raise HookError(
            f"the container runs as root with {', '.join(sorted(found))} and could leave its "
            "namespaces: run it without --privileged and --cap-add, or with --userns=auto"
        )


def _require_devices(linux: Json) -> None:
    """Raise HookError unless devices are closed."""
    rules = linux["resources"]["devices"]
    # Without it as the first rule, runtimes differ in the open devices.
    # guard: a container of root's has closed devices
    if rules[:1] != [{"allow": False, "access": "rwm"}]:
        raise HookError("the container's devices are not denied by default")
    # guard: a container of root's has no device of the machine's
    if not all(_is_harmless(rule) for rule in rules[1:]):
        raise HookError(
            "the container runs as root and can use devices of the host: run it without "
            "--device and --device-cgroup-rule, or with --userns=auto"
        )


def _is_harmless(rule: Json) -> bool:
    if rule["allow"] is False or rule["access"] == "m":
        return True
    kind = (rule.get("type"), rule.get("major"))
    return kind in MAJORS or rule.get("minor") in DEVICES.get(kind, ())


def _require_closed_proc(linux: Json) -> None:
    """Raise HookError where files of /proc are open."""
    read_only, masked = set(linux["readonlyPaths"]), set(linux["maskedPaths"])
    needed = {"/proc/sys", "/proc/sysrq-trigger"} - read_only - masked
    # /proc/sys/kernel/core_pattern needs user id 0 and no capability.
    # guard: a container of root's cannot write the kernel's settings
    if needed or "/proc/kcore" not in masked:
        raise HookError(
            "the container runs as root and can access kernel files in /proc: run it without "
            "--security-opt unmask"
        )


def require_own_namespaces(pid: int) -> None:
    """Raise HookError for a first process in namespaces of the machine.

    Whatever its configuration says: this is what the runtime has made.
    """
    for name in ("pid", "mnt"):
        try:
            same = os.path.samestat(
                os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}")
            )
        except OSError as error:
            raise HookError(f"cannot read its {name} namespace: {error}") from error
        # guard: the kernel says that a container of root's is apart
        if same:
            raise HookError(f"the container is in the host's {name} namespace")


def open_sockets(person: Person, launch: str, directory: str) -> int:
    """Return an O_PATH descriptor of a launch's sockets, reached without a link.

    Raises HookError when it is elsewhere, or another user's.
    """
    below = ["vitrail", "launch", launch, "s"]
    # guard: root mounts no other directory than a launch's
    if directory != "/".join([person.runtime, *below]):
        raise HookError("the broker sent an invalid launch directory")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = -1
    try:
        fd = os.open(person.runtime, flags)
        for name in below:
            above, fd = fd, os.open(name, flags, dir_fd=fd)
            os.close(above)
            _require_owner(fd, person.uid)
    except (OSError, HookError) as error:
        if fd >= 0:
            os.close(fd)
        raise HookError(f"{directory}: {error}") from error
    return fd


def _require_owner(fd: int, uid: int) -> None:
    # guard: root mounts only the user's directories
    if os.fstat(fd).st_uid != uid:
        raise HookError("another user owns it or a parent directory")


def mount_sockets(person: Person, launch: str, directory: str) -> str:
    """Mount a launch's sockets where only root changes names; returns the place.

    The runtime resolves a path, which the user could change meanwhile.
    """
    _make_places()
    fd = open_sockets(person, launch, directory)
    place = f"{PLACES}/{launch}"
    try:
        os.mkdir(place, 0o700)
        _mount(f"/proc/self/fd/{fd}", place, MS_BIND)
        _mount("none", place, MS_PRIVATE)
        still = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
        _mount("none", place, MS_REMOUNT | MS_BIND | still)
    except OSError as error:
        unmount_sockets(launch)
        raise HookError(f"{place}: {error.strerror}") from error
    finally:
        os.close(fd)
    return place


def unmount_sockets(launch: str) -> None:
    """Unmount a launch's sockets below PLACES; the container keeps its mount."""
    place = f"{PLACES}/{launch}"
    _libc().umount2(os.fsencode(place), MNT_DETACH | UMOUNT_NOFOLLOW)
    try:
        os.rmdir(place)
    except OSError:
        return  # it was not made, or the next hook finds it


def _make_places() -> None:
    """Make the directory of places; remove what killed hooks left in it."""
    try:
        os.mkdir(PLACES)
    except FileExistsError:
        _clear_old()
    os.chmod(PLACES, 0o711)  # a container's root in a user namespace passes through


def _clear_old() -> None:
    """Remove what killed hooks have left between their stages."""
    for name in os.listdir(PLACES):
        try:
            # The time of the mount there, if there is one.
            age = time.time() - os.lstat(f"{PLACES}/{name}").st_ctime
        except OSError:
            continue
        if age > OLD_SECONDS:
            unmount_sockets(name)


def _mount(source: str, target: str, flags: int) -> None:
    # Late: hooks start with each container, and few mount.
    import ctypes

    paths = os.fsencode(source), os.fsencode(target)
    if _libc().mount(*paths, None, flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    import ctypes  # late, as above

    libc = ctypes.CDLL(None, use_errno=True)
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    libc.mount.argtypes = (text, text, text, ctypes.c_ulong, pointer)
    libc.umount2.argtypes = (text, ctypes.c_int)
    return libc
