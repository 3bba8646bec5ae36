"""What the hook changes in a container's configuration (OCI runtime spec, config.md)."""

from __future__ import annotations

import errno
import resource
import socket
from typing import List

from shims.hooks.oci_annotations import LAUNCH, Json

INSIDE = "/run/vitrail"
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
NAMESPACES = 0x7E020000
"""All CLONE_NEW… flags that clone(2) takes."""
FLAGGED = ("clone", "unshare")
"""System calls whose first argument has such flags."""
CLOSED = {
    "clone3": errno.ENOSYS,  # its flags are behind a pointer; glibc falls back to clone
    **dict.fromkeys(
        (
            *("setns", "mount", "umount", "umount2", "pivot_root", "move_mount"),
            *("open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick"),
            *("mount_setattr", "userfaultfd"),
        ),
        errno.EPERM,
    ),
}
"""System calls that make namespaces and mounts, or hold up the kernel, and the answer."""
MEMORY_PERCENT = {"/home/user": 25, "/run": 3, "/var/tmp": 3}
"""Sizes of file systems in memory, as parts of this machine's; see BOX_MEMORY_PARTS."""
OTHER_PERCENT = 12
TERMINALS = 128
"""Pseudo-terminals of a container; all together have 3,072."""
OPEN_FILES = 700
"""Where the broker's answer has no number."""


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
    return dict(_masked(flag, flag if wanted else 0), index=index)


def close_namespaces(config: Json) -> None:
    """Close namespaces and mounts in the filter that ``close_vsock`` has made.

    Programs with capabilities in a user namespace of their own have large parts of the
    kernel to themselves (nf_tables, mounts), and a copy of each shared folder.  /proc
    becomes read-only, because programs can lower their oom_score_adj there.
    """
    linux = config["linux"]
    profile = linux["seccomp"]
    denies = profile["defaultAction"] not in PERMITTING
    rules: List[Json] = []
    for rule in profile["syscalls"]:
        permits = rule["action"] in PERMITTING
        names = [name for name in rule["names"] if name not in CLOSED]
        flagged = [name for name in names if name in FLAGGED]
        if permits or denies:
            names = [name for name in names if name not in FLAGGED]
        if names:
            rules.append(dict(rule, names=names))
        # guard: our containers make no namespaces
        if permits and flagged:
            rules += _without_namespaces(dict(rule, names=flagged))
    refused = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}
    rules += [
        dict(refused, names=list(FLAGGED), args=[_masked(1 << bit, 1 << bit)])
        for bit in range(32)
        if NAMESPACES >> bit & 1
    ]
    # guard: our containers mount nothing
    rules += [dict(refused, names=[n], errnoRet=CLOSED[n]) for n in CLOSED]
    profile["syscalls"] = rules
    # guard: a container stays the first to end
    linux["readonlyPaths"] = [*(linux.get("readonlyPaths") or []), "/proc"]


def _without_namespaces(rule: Json) -> List[Json]:
    """Narrow a rule that permits FLAGGED calls to those without such flags.

    A rule that requires flags, or compares them otherwise, permits nothing more.
    """
    others = []
    mask = NAMESPACES
    for condition in rule.get("args") or []:
        if condition["index"] != 0:
            others.append(condition)
        elif condition["op"] == "SCMP_CMP_MASKED_EQ" and not condition.get("valueTwo"):
            mask |= int(condition["value"])
        else:
            return []
    return [dict(rule, args=[_masked(mask, 0), *others])]


def _masked(mask: int, value: int) -> Json:
    """Return the condition that the masked flags of a call have a value."""
    op = "SCMP_CMP_MASKED_EQ"
    return {"index": 0, "value": mask, "valueTwo": value, "op": op}


def limit_file_systems(config: Json) -> None:
    """Give each file system in memory of the container a size, if it has none.

    The kernel's own bound is half of the machine's memory for each.
    """
    for mount in config.get("mounts") or []:
        options = mount.get("options") or []
        if mount.get("type") == "tmpfs" and not any(
            option.startswith("size=") for option in options
        ):
            percent = MEMORY_PERCENT.get(mount["destination"], OTHER_PERCENT)
            # guard: a container's file systems in memory have a size
            mount["options"] = [*options, f"size={percent}%"]


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
