"""The programs of Vitrail: whose rights each has, and how large it may be.

A bound is lowered with the code and never raised.  ``docs/threat-model.md`` shows this
table (``python -m docs.print_processes``), ``tests/test_layout.py`` compares it with what
the programs import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from docs.tables.imports import Size, closure, modules

USER: Final = "the user's"
CONFINED: Final = "confined"
ROOT: Final = "root's"
Rights = Literal["the user's", "confined", "root's"]


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its ``entry`` modules, and what its process may import at most.

    ``linked``: it runs on machines of the link only, not beside ``vitrail-local``.
    ``without``: what its ``entry`` imports in the other process of a fork alone.
    """

    name: str
    entry: tuple[str, ...]
    rights: Rights
    modules: int
    lines: int
    code: int
    linked: bool = False
    without: tuple[str, ...] = ()

    def closure(self) -> frozenset[str]:
        """Return all modules that the program may import, in functions too."""
        return closure(self.entry, self.without)


PROGRAMS = (
    Program("authority", ("broker.programs.authority",), USER, 188, 24_173, 15_838),
    Program("starter", ("broker.helpers.starter",), USER, 14, 580, 330),
    Program(
        "vitrail-local, viewer",
        ("broker.programs.local",),
        USER,
        340,
        43_400,
        27_932,
        without=("broker.programs.local_host",),
    ),
    Program(
        "vitrail-local, host",
        ("broker.programs.local", "broker.programs.local_host"),
        USER,
        261,
        30_265,
        19_026,
        without=("broker.viewer.broker", "broker.viewer.host_ends.local_host"),
    ),
    Program(
        "vitrail-host",
        ("broker.programs.host",),
        USER,
        260,
        31_902,
        20_336,
        linked=True,
    ),
    Program(
        "vitrail-viewer",
        ("broker.programs.viewer",),
        USER,
        357,
        46_137,
        29_800,
        linked=True,
    ),
    Program("pump", ("broker.helpers.pump.process",), USER, 30, 2_592, 1_463),
    Program("acceptor", ("broker.programs.acceptor",), USER, 46, 3_513, 1_998),
    Program("prompt agent", ("broker.programs.prompt",), USER, 40, 3_820, 2_074),
    Program("vitrail-access", ("broker.programs.accessible",), USER, 34, 2_940, 1_437),
    Program("name strip", ("broker.helpers.prompt.name_strip",), CONFINED, 5, 100, 100),
    Program("shipper", ("broker.programs.shipper",), USER, 54, 5_759, 3_464),
    Program(
        "vitrail-ingest",
        ("broker.programs.ingest",),
        USER,
        37,
        2_879,
        1_626,
        linked=True,
    ),
    Program("fork server", ("broker.programs.fork_server",), USER, 28, 2_349, 1_164),
    Program(
        "fork server in its jail",
        ("broker.programs.fork_server_jailed",),
        CONFINED,
        193,
        32_400,
        20_973,
    ),
    Program("keeper", ("broker.programs.keeper",), USER, 33, 2_765, 1_354),
    Program("worker", ("broker.programs.worker",), CONFINED, 188, 31_590, 20_440),
    Program("files", ("shims.files.__main__",), USER, 35, 5_240, 3_790),
    Program(
        "folder mounts",
        ("broker.helpers.mounts.tool", "broker.helpers.mounts.binding"),
        USER,
        12,
        1_000,
        508,
    ),
    Program("security key", ("broker.programs.security_key",), USER, 30, 1_860, 1_005),
    Program(
        "frameguard", ("broker.host.network.frameguard",), CONFINED, 25, 1_757, 939
    ),
    Program(
        "netguard",
        (
            "broker.host.network.veth",
            "broker.host.network.tap",
            "broker.host.network.switch.cable",
        ),
        USER,
        29,
        2_312,
        1_283,
    ),
    Program("switch", ("broker.host.network.switch.process",), USER, 35, 3_560, 2_104),
    Program("flowguard", ("broker.host.network.rules",), USER, 41, 4_580, 2_913),
    Program("vitrail-devices", ("broker.programs.devices",), ROOT, 47, 4_609, 3_000),
    Program(
        "OCI hook",
        ("shims.vitrail_oci_hook", "shims.vitrail_oci_rootful"),
        ROOT,
        4,
        1_110,
        756,
    ),
    Program("libvirt's hook", ("shims.vitrail_libvirt_hook",), ROOT, 3, 520, 400),
)
"""Ordered as the processes of ``docs/threat-model.md``.  ``brokerctl`` is not here: it
ends with its command, and loads what the verb needs."""

TOGETHER = Size(645, 93_187, 63_082)
"""What all processes with the user's rights on one machine import, each module once."""


def together() -> frozenset[str]:
    """Return the modules of all processes that have the user's rights on one machine."""
    programs = (p for p in PROGRAMS if p.rights == USER and not p.linked)
    return frozenset(name for program in programs for name in program.closure())


def of_no_daemon() -> frozenset[str]:
    """Return modules in packages of daemons that only brokerctl and tests import."""
    used = {name for program in PROGRAMS for name in program.closure()}
    return frozenset(
        name
        for name, path in modules().items()
        if name.startswith("broker.")
        and not name.startswith(("broker.cli", "broker.__main__"))
        and path.name != "__init__.py"
        and name not in used
    )
