"""The programs of Vitrail: whose rights each has, and how large it may be.

A bound is lowered with the code, and a commit that raises one says why.
``docs/threat-model.md`` shows this table (``python -m docs.print_processes``),
``tests/test_layout.py`` compares it with what the programs import.
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
    ``without``: what its ``entry`` imports in the other process of a fork alone, or
    imports for its confined children and never executes itself.
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


_OF_TERMINAL: Final = "broker.helpers.helper_confinement"
"""Of the process that writes on the terminal, which ``helpers.terminal_log`` forks."""

PROGRAMS = (
    Program("authority", ("broker.programs.authority",), USER, 200, 25_000, 15_980),
    Program(
        "helpers",
        ("broker.programs.helper_forks",),
        USER,
        49,
        4_300,
        2_120,
        # tests/integration/test_helper_forks.py watches the server.
        without=(
            *("broker.programs.acceptor", "broker.helpers.pump.process"),
            "broker.session.child",
        ),
    ),
    Program("session children", ("broker.session.child",), USER, 169, 16_800, 10_180),
    Program(
        "pump and acceptor",
        ("broker.helpers.pump.process", "broker.programs.acceptor"),
        CONFINED,
        35,
        3_500,
        1_860,
    ),
    Program(
        "vitrail-local before its fork",
        ("broker.programs.local",),
        USER,
        151,
        13_550,
        7_120,
        without=(
            *("broker.programs.local_host", "broker.viewer.broker"),
            *("broker.viewer.host_ends.local_host", _OF_TERMINAL),
        ),
    ),
    Program(
        "vitrail-local, viewer",
        ("broker.programs.local",),
        CONFINED,
        359,
        43_400,
        26_840,
        without=("broker.programs.local_host", _OF_TERMINAL),
    ),
    Program(
        "vitrail-local, host",
        ("broker.programs.local", "broker.programs.local_host"),
        USER,
        275,
        31_600,
        19_170,
        without=(
            *("broker.viewer.broker", "broker.viewer.host_ends.local_host"),
            *("broker.viewer.own_files", "broker.helpers.viewer_confinement"),
            _OF_TERMINAL,
        ),
    ),
    Program(
        "vitrail-host",
        ("broker.programs.host",),
        USER,
        267,
        32_450,
        20_000,
        linked=True,
    ),
    Program(
        "vitrail-viewer",
        ("broker.programs.viewer",),
        CONFINED,
        374,
        45_650,
        28_430,
        linked=True,
        without=(_OF_TERMINAL,),
    ),
    Program("prompt agent", ("broker.programs.prompt",), USER, 39, 4_050, 2_130),
    Program("vitrail-access", ("broker.programs.accessible",), USER, 35, 3_200, 1_530),
    Program("name strip", ("broker.helpers.prompt.name_strip",), CONFINED, 4, 100, 40),
    Program(
        "screen frame", ("broker.helpers.prompt.screen_frame",), USER, 18, 1_000, 550
    ),
    Program("shipper", ("broker.programs.shipper",), USER, 47, 5_050, 2_620),
    Program(
        "shipper in its jail",
        ("broker.programs.shipper_jailed",),
        CONFINED,
        49,
        6_100,
        3_530,
    ),
    Program(
        "vitrail-ingest",
        ("broker.programs.ingest",),
        USER,
        33,
        3_200,
        1_750,
        linked=True,
    ),
    Program("fork server", ("broker.programs.fork_server",), USER, 22, 1_950, 840),
    Program(
        "fork server in its jail",
        ("broker.programs.fork_server_jailed",),
        CONFINED,
        213,
        35_650,
        22_620,
    ),
    Program("worker", ("broker.programs.worker",), CONFINED, 206, 34_700, 22_010),
    Program("files", ("shims.files.own_files",), CONFINED, 13, 1_850, 1_230),
    Program(
        "jailed services and cameras",
        ("shims.files.__main__",),
        CONFINED,
        40,
        6_800,
        4_820,
    ),
    Program(
        "folder mounts",
        ("broker.helpers.mounts.tool", "broker.helpers.mounts.binding"),
        USER,
        14,
        1_000,
        520,
    ),
    Program("security key", ("broker.programs.security_key",), USER, 25, 2_300, 1_180),
    Program(
        "frameguard",
        ("broker.host.network.frameguard.frameguard",),
        CONFINED,
        24,
        2_200,
        1_080,
    ),
    Program(
        "netguard",
        (
            "broker.host.network.frameguard.veth",
            "broker.host.network.frameguard.tap",
            "broker.host.network.switch.cable",
        ),
        CONFINED,
        29,
        2_850,
        1_490,
    ),
    Program(
        "launch tools",
        ("broker.host.vmm.jailed_tool", "broker.host.images.unpack"),
        USER,
        22,
        1_150,
        570,
        without=("broker.host.images.bzimage",),
    ),
    Program(
        "launch tools in their jail",
        ("broker.host.vmm.fetch", "broker.host.images.host_files"),
        CONFINED,
        21,
        2_000,
        1_000,
    ),
    Program(
        "kernel unpacker",
        ("broker.host.images.bzimage",),
        CONFINED,
        17,
        1_250,
        480,
    ),
    Program(
        "switch", ("broker.host.network.switch.process",), CONFINED, 37, 3_700, 2_010
    ),
    Program(
        "flowguard",
        ("broker.host.network.flowguard.rules",),
        CONFINED,
        44,
        5_450,
        3_310,
    ),
    Program("vitrail-devices", ("broker.programs.devices",), ROOT, 43, 4_800, 2_780),
    Program(
        "OCI hook",
        ("shims.vitrail_oci_hook", "shims.vitrail_oci_rootful"),
        ROOT,
        3,
        1_200,
        800,
    ),
    Program("libvirt's hook", ("shims.vitrail_libvirt_hook",), ROOT, 2, 550, 370),
)
"""Ordered as the processes of ``docs/threat-model.md``.  ``brokerctl`` is not here: it
ends with its command, and loads what the verb needs."""

TOGETHER = Size(modules=539, lines=65_950, code=42_060)
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
