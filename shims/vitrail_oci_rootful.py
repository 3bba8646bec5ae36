"""Containers that root starts with Podman: whose broker, and how its sockets get in.

Part of ``vitrail_oci_hook.py``, which loads it for hooks of root's alone.  Root acts
here for a user, so nothing that the user can change decides what root does:

* whose broker it is stands in a file that only root can write;
* a user's records are read with that user's rights;
* the directory of the sockets is opened without following a link of the user's, and
  mounted at a place of root's, by which the runtime finds it;
* a container that could leave its namespaces by a capability gets no lease, because its
  root is the machine's.

Standard library only, Python 3.9.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import time
from typing import Any, List

Json = Any
"""A JSON document that has not been looked at."""
PLACES = "/run/vitrail-oci"
"""Where root mounts directories of sockets until their container has them."""
OLD_SECONDS = 120.0
"""A place that is older was left by a hook that was killed."""
SETTINGS_BYTES = 1 << 16
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_PRIVATE = 32, 4096, 1 << 18
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
"""mount(2), umount2(2)."""
ESCAPES = frozenset(
    {
        "CAP_SYS_ADMIN",
        "CAP_DAC_READ_SEARCH",
        "CAP_SYS_PTRACE",
        "CAP_SYS_MODULE",
        "CAP_SYS_RAWIO",
        "CAP_BPF",
    }
)
"""With one of these, root of the machine's own user namespace reaches files, processes
or memory outside its other namespaces (capabilities(7)).  CAP_MKNOD is not one: a container
with a control group of its own opens only the devices that this lists."""


class RefusedError(Exception):
    """No lease; the text says why."""


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

    Raises RefusedError for a file that others than root can write, too.
    """
    try:
        with open(path, "rb") as file:
            facts = os.fstat(file.fileno())
            # guard: root's settings are root's alone
            if facts.st_uid != 0 or facts.st_mode & 0o022:
                raise RefusedError(f"{path} can be written by others than root")
            values = json.loads(file.read(SETTINGS_BYTES))
        uid, runtime, records = values["uid"], values["runtime"], values["records"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(f"{path}: {error!r}") from error
    if not isinstance(uid, int) or isinstance(uid, bool) or uid <= 0:
        raise RefusedError(f"{path}: 'uid' is the number of a user")
    paths = [runtime, *records] if isinstance(records, list) else [None]
    if not all(isinstance(one, str) and one.startswith("/") for one in paths):
        raise RefusedError(f"{path}: 'runtime' and 'records' are absolute paths")
    return Person(uid, runtime, records)


def become(uid: int) -> None:
    """Take on a user's rights for good.  Raises KeyError for an unknown user."""
    if os.geteuid() == uid:
        return
    # guard: root reads the records of a container's person with the person's rights
    os.setgroups([])
    os.setgid(pwd.getpwuid(uid).pw_gid)
    os.setuid(uid)


def require_confined(config: Json) -> None:
    """Raise RefusedError for a container whose root could leave it."""
    try:
        namespaces = {entry["type"] for entry in config["linux"]["namespaces"]}
        sets = (config["process"].get("capabilities") or {}).values()
        capabilities = {word for words in sets for word in words or ()}
    except (KeyError, TypeError, AttributeError) as error:
        raise RefusedError(
            f"this is no container's configuration: {error!r}"
        ) from error
    missing = sorted({"pid", "mount"} - namespaces)
    # guard: a container in the host's namespaces gets no lease of root's
    if missing:
        raise RefusedError(f"it has no {' and no '.join(missing)} namespace of its own")
    if "user" in namespaces:
        return  # they count within that namespace only
    found = sorted(capabilities & ESCAPES)
    # guard: a container of root's that can leave it gets no lease
    if found:
        raise RefusedError(
            f"it is root's and has {', '.join(found)}, by which it can leave its "
            "namespaces: run it without --privileged and --cap-add, or with --userns=auto"
        )


def open_sockets(person: Person, launch: str, directory: str) -> int:
    """Return an O_PATH descriptor of a launch's sockets, reached without a link.

    Raises RefusedError when it is elsewhere, or another user's.
    """
    below = ["vitrail", "launch", launch, "s"]
    # guard: root mounts no other directory than a launch's
    if directory != "/".join([person.runtime, *below]):
        raise RefusedError("the broker's directory is not that of a launch")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = -1
    try:
        fd = os.open(person.runtime, flags)
        for name in below:
            above, fd = fd, os.open(name, flags, dir_fd=fd)
            os.close(above)
            _require_owner(fd, person.uid)
    except (OSError, RefusedError) as error:
        if fd >= 0:
            os.close(fd)
        raise RefusedError(f"{directory}: {error}") from error
    return fd


def _require_owner(fd: int, uid: int) -> None:
    # guard: root mounts a directory of the person's own
    if os.fstat(fd).st_uid != uid:
        raise RefusedError("it, or a directory above it, is another user's")


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
        raise RefusedError(f"{place}: {error.strerror}") from error
    finally:
        os.close(fd)
    return place


def unmount_sockets(launch: str) -> None:
    """Remove the place: the container has a mount of its own."""
    place = f"{PLACES}/{launch}"
    _libc().umount2(os.fsencode(place), MNT_DETACH | UMOUNT_NOFOLLOW)
    try:
        os.rmdir(place)
    except OSError:
        return  # it was not made, or the next hook finds it


def _make_places() -> None:
    try:
        os.mkdir(PLACES)
    except FileExistsError:
        _clear_old()
    os.chmod(PLACES, 0o711)  # a container's root in a user namespace passes through


def _clear_old() -> None:
    """Remove what hooks have left that were killed between their stages."""
    for name in os.listdir(PLACES):
        try:
            # The time of what is mounted there, where it still is.
            age = time.time() - os.lstat(f"{PLACES}/{name}").st_ctime
        except OSError:
            continue
        if age > OLD_SECONDS:
            unmount_sockets(name)


def _mount(source: str, target: str, flags: int) -> None:
    paths = os.fsencode(source), os.fsencode(target)
    if _libc().mount(*paths, None, flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    libc.mount.argtypes = (text, text, text, ctypes.c_ulong, pointer)
    libc.umount2.argtypes = (text, ctypes.c_int)
    return libc
