"""The table of what a program of each kind of sandbox can ask of the kernel.

``python -m docs.tables.kernel_access`` prints the part between the marks in
``docs/resource-limits.md``.  ``tests/attack/test_kernel_access.py`` runs one probe in each kind
(``tests/kit/probe``) and compares its answers with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.core import limits

Answer = str | float
KINDS = {
    "box": "box; service of the desktop",
    "podman": "Podman, by record",
    "nspawn": "systemd-nspawn, by record",
    "nested": "box with `user_namespaces`",
    "own": "your own `podman run`",
    "flatpak": "Flatpak, by record",
    "shared": "toolbox, distrobox",
}
"""Each kind, and its heading."""
SAME = {"service": "box", "toolbox": "shared", "distrobox": "shared"}
"""Kinds that are probed separately and have the answers of another one."""

CLOSED, OPEN, YOURS = "no", "yes", "all"
"""Answers in words. ``YOURS`` is a limit of the user or the machine."""
_FOREIGN = ("own", "flatpak", "shared")
_OPEN = dict.fromkeys(("nested", "own", "shared"), OPEN)
_FAMILIES = dict.fromkeys(("own", "shared"), OPEN)
_CALLS = dict.fromkeys(("flatpak", "shared"), OPEN)
_POOLS: dict[str, Answer] = dict.fromkeys(_FOREIGN, OPEN)
_LIMITS: dict[str, Answer] = dict.fromkeys(_FOREIGN, YOURS)
_USER_LIMITS = {**_LIMITS, "podman": YOURS}
"""Limits that the kernel counts for a user namespace, which all containers share."""
_NAMESPACES = "mount, network, pid, ipc, uts, cgroup, time"
_MOUNT_CALLS = "setns, mount, umount2, open_tree, fsconfig, mount_setattr"
_OF_RECORD = "`launch.memory`, if systemd gives you control groups"


@dataclass(frozen=True)
class Question:
    """A question to the kernel, and the expected answer in each kind.

    ``usual`` is the answer in kinds that ``others`` does not name, ``total`` what there
    is in all.  A probe cannot ask everything of every machine: ``asked``.
    """

    text: str
    usual: Answer = CLOSED
    others: Mapping[str, Answer] = field(default_factory=dict)
    total: str = ""
    asked: bool = True

    def answer(self, kind: str) -> Answer:
        """Return the expected answer for a kind."""
        return self.others.get(SAME.get(kind, kind), self.usual)


QUESTIONS = (
    Question(
        "user namespaces, by unshare(2)",
        CLOSED,
        _OPEN,
        "a quarter of the kernel's threads, some ten thousand; of a box 64 of each kind",
    ),
    Question("user namespaces, by clone(2)", CLOSED, _OPEN),
    Question("user namespaces, by clone3(2)", CLOSED, _OPEN),
    Question("other namespaces", CLOSED, dict.fromkeys(_OPEN, _NAMESPACES)),
    Question("separate mounts", CLOSED, _OPEN),
    Question("calls about mounts", CLOSED, dict.fromkeys(_OPEN, _MOUNT_CALLS)),
    Question("nf_tables", CLOSED, _OPEN),
    Question("packet sockets", CLOSED, _FAMILIES),
    Question("AF_VSOCK", CLOSED, _FAMILIES),
    Question("io_uring", CLOSED, _CALLS),
    Question("userfaultfd(2)", CLOSED, _CALLS),
    Question("bpf(2)"),
    Question("perf_event_open(2)"),
    Question("keyrings", CLOSED, {"shared": OPEN}, "200 keys"),
    Question("names of your keys", CLOSED, {**_CALLS, "nested": OPEN}),
    Question("huge pages", CLOSED, _POOLS, "`vm.nr_hugepages`"),
    Question("contexts of aio", CLOSED, _POOLS, "65,536"),
    Question(
        "pseudo-terminals",
        limits.BOX_TERMINALS,
        {"flatpak": YOURS, "shared": YOURS},
        "3,072 beside the desktop's own",
    ),
    Question("terminals of a separate devpts", 0, dict.fromkeys(_OPEN, YOURS)),
    Question("new control groups", 0, {"shared": YOURS}, "65,535"),
    Question("largest file system in memory", 0.25, _LIMITS),
    Question("all file systems in memory", 0.5, {**_LIMITS, "nspawn": 0.7}),
    Question("inotify instances", limits.BOX_INOTIFY_INSTANCES, _USER_LIMITS, "128"),
    Question(
        "open files",
        limits.SANDBOX_FDS,
        {"shared": YOURS},
        "also the limit of descriptors in flight",
    ),
    Question(
        "processes",
        limits.BOX_PROCESSES,
        {**_LIMITS, "podman": "`launch.pids`, if systemd gives you control groups"},
        "systemd's share, the process ids",
    ),
    Question(
        "memory",
        YOURS,
        {"podman": _OF_RECORD, "nspawn": _OF_RECORD},
        "the machine's",
        asked=False,
    ),
    Question(
        "bytes of locked memory",
        limits.SANDBOX_LOCKED_BYTES,
        dict.fromkeys(_FAMILIES, YOURS),
    ),
    Question("pending signals, timers", limits.BOX_SIGNALS, _USER_LIMITS),
    Question(
        "bytes of message queues", limits.BOX_MESSAGE_BYTES, _USER_LIMITS, "800 KiB"
    ),
    Question("real-time priority", 0, dict.fromkeys(_FAMILIES, YOURS)),
    Question("oom_score_adj", "1000", dict.fromkeys(_FOREIGN, "0")),
    Question(
        "lowest oom_score_adj that a program can set",
        "1000",
        dict.fromkeys(("nested", *_FOREIGN), "0"),
    ),
)


def differences(kind: str, answers: Mapping[str, Answer]) -> list[str]:
    """Return the answers of a probe that the table does not have."""
    return [
        f"{item.text}: {answers[item.text]}, and not {item.answer(kind)}"
        for item in QUESTIONS
        if item.asked
        and not _matches(answers[item.text], item.answer(kind), item.usual)
    ]


def _matches(answer: Answer, expected: Answer, usual: Answer) -> bool:
    """Return whether an answer is as expected; an expected number is the maximum.

    Instead of a number an answer may be the name of an error.
    """
    number = 0 if isinstance(answer, str) else answer
    if isinstance(expected, str):
        if isinstance(usual, str):
            return answer == expected
        # The user's own limit, -1 for none; a container's own may be anything.
        return number == -1 or number >= usual
    return 0 <= number <= expected and bool(number) == bool(expected)


def markdown() -> str:
    """Return the table, a row for each question."""
    heads = ("does a program have", "in all", *KINDS.values())
    rows = [heads, ("---",) * len(heads)]
    for question in QUESTIONS:
        answers = (_text(question.answer(kind)) for kind in KINDS)
        rows.append((question.text, question.total, *answers))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _text(answer: Answer) -> str:
    if isinstance(answer, str):
        return answer
    return f"{answer:.0%}" if 0 < answer < 1 else f"{answer:,}"


if __name__ == "__main__":
    print(markdown(), end="")
