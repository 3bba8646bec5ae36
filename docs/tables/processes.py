"""The programs of Vitrail: whose rights each has, and how large it may be.

A bound is the measured size plus five percent, so that a line can be added without
taking another one away.  It changes in a commit of its own, which says what the process
gained or lost; no message, diagnosis or check is shortened to fit one.
``docs/threat-model.md`` shows this table (``python -m docs.print_processes``),
``tests/test_layout.py`` compares it with what the programs import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from broker.session.child import MODULES
from docs.tables.imports import Size, closure, modules

USER: Final = "the user's"
CONFINED: Final = "confined"
ROOT: Final = "root's"
Rights = Literal["the user's", "confined", "root's"]


@dataclass(frozen=True, slots=True)
class Program:
    """One program: its ``entry`` modules, and what its process may import at most.

    ``linked``: it runs on machines of the link only, not beside ``vitrail-local``.
    ``phase_of``: the program whose later or earlier phase this is: the same process
    before or after it confines itself, or a part that it forks to be confined.
    ``profile_of``: the program that executes this part by its first argument or its own
    name, with the rights of this row and no others.
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
    phase_of: str = ""
    profile_of: str = ""

    @property
    def is_kind(self) -> bool:
        """Return whether it is a program of its own, not a phase or profile of one."""
        return not self.phase_of and not self.profile_of

    def closure(self) -> frozenset[str]:
        """Return all modules that the program may import, in functions too."""
        return closure(self.entry, self.without)


_OF_TERMINAL: Final = "broker.helpers.helper_confinement"
"""Of the process that writes on the terminal, which ``helpers.terminal_log`` forks."""

_FORKS: Final = "broker.programs.fork_server"
_TOOL: Final = "broker.programs.tools.tool"

PROGRAMS = (
    Program("authority", ("broker.programs.authority",), USER, 230, 29_900, 18_900),
    Program("fork servers", (_FORKS,), USER, 26, 2_800, 1_380),
    Program(
        "helpers",
        (_FORKS, "broker.programs.forks.helpers"),
        USER,
        63,
        6_280,
        3_230,
        # tests/integration/test_helper_forks.py watches the server.
        without=(
            *("broker.programs.acceptor", "broker.helpers.pump.process"),
            # In the starter alone, with a session child's code.
            *("broker.session.child", "broker.core.language.notices"),
        ),
        profile_of="fork servers",
    ),
    Program(
        "session children",
        ("broker.session.child", *MODULES),
        USER,
        208,
        24_200,
        14_770,
    ),
    Program(
        "pump and acceptor",
        ("broker.helpers.pump.process", "broker.programs.acceptor"),
        CONFINED,
        39,
        4_050,
        2_130,
    ),
    Program(
        "vitrail-local, viewer",
        ("broker.programs.local",),
        CONFINED,
        412,
        50_210,
        31_790,
        without=("broker.programs.local_host", _OF_TERMINAL),
    ),
    Program(
        "vitrail-local before its fork",
        ("broker.programs.local",),
        USER,
        176,
        16_400,
        8_700,
        without=(
            *("broker.programs.local_host", "broker.viewer.broker"),
            *("broker.viewer.host_ends.local_host", _OF_TERMINAL),
        ),
        phase_of="vitrail-local, viewer",
    ),
    Program(
        "vitrail-local, host",
        ("broker.programs.local", "broker.programs.local_host"),
        USER,
        305,
        36_560,
        22_310,
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
        302,
        38_050,
        23_210,
        linked=True,
    ),
    Program(
        "vitrail-viewer",
        ("broker.programs.viewer",),
        CONFINED,
        432,
        52_580,
        32_540,
        linked=True,
        without=(_OF_TERMINAL,),
    ),
    Program("prompt agent", ("broker.programs.prompt",), USER, 51, 5_890, 3_260),
    Program("vitrail-access", ("broker.programs.accessible",), USER, 38, 3_110, 1_540),
    Program("shipper", ("broker.programs.shipper",), USER, 51, 5_550, 2_930),
    Program(
        "shipper in its jail",
        ("broker.programs.shipper_jailed",),
        CONFINED,
        56,
        7_160,
        4_220,
        phase_of="shipper",
    ),
    Program(
        "vitrail-ingest",
        ("broker.programs.ingest",),
        USER,
        35,
        3_470,
        1_840,
        linked=True,
    ),
    Program(
        "fork server of workers",
        (_FORKS, "broker.helpers.worker_jail.server_jail"),
        USER,
        37,
        3_740,
        1_900,
        profile_of="fork servers",
    ),
    Program(
        "fork server in its jail",
        (
            *(_FORKS, "broker.helpers.worker_jail.server_jail"),
            "broker.programs.forks.workers",
        ),
        CONFINED,
        245,
        40_500,
        25_360,
        phase_of="fork server of workers",
    ),
    Program("worker", ("broker.programs.worker",), CONFINED, 228, 39_230, 24_570),
    Program("tools", (_TOOL,), USER, 8, 120, 70),
    Program(
        "files",
        ("shims.files.own_files",),
        CONFINED,
        14,
        2_050,
        1_360,
        profile_of="tools",
    ),
    Program(
        "jailed services",
        ("shims.files.calling",),
        CONFINED,
        18,
        2_490,
        1_680,
        profile_of="tools",
    ),
    Program(
        "jailed cameras",
        ("shims.files.video_node",),
        CONFINED,
        5,
        560,
        370,
        profile_of="tools",
    ),
    Program(
        "folder mounts",
        (_TOOL, "broker.helpers.mounts.tool", "broker.helpers.mounts.binding"),
        USER,
        20,
        1_300,
        720,
        profile_of="tools",
    ),
    Program(
        "drawings",
        (
            *(_TOOL, "broker.helpers.prompt.name_strip"),
            *("broker.helpers.prompt.use_banner", "broker.helpers.prompt.screen_frame"),
        ),
        USER,
        30,
        1_740,
        970,
        profile_of="tools",
    ),
    Program(
        "security key",
        (_TOOL, "broker.programs.tools.security_key"),
        USER,
        31,
        2_640,
        1_370,
        profile_of="tools",
    ),
    Program(
        "packet guard",
        (_TOOL, "broker.host.network.packet_guard"),
        CONFINED,
        71,
        8_400,
        5_100,
        profile_of="tools",
    ),
    Program(
        "launch tools",
        (_TOOL, "broker.host.vmm.launch_jails", "broker.host.images.unpack"),
        USER,
        29,
        1_410,
        760,
        without=("broker.host.images.bzimage",),
        profile_of="tools",
    ),
    Program(
        "launch tools, confined",
        (
            *(_TOOL, "broker.host.vmm.fetch", "broker.host.images.host_files"),
            "broker.host.images.unpack",
        ),
        CONFINED,
        40,
        3_520,
        1_900,
        phase_of="launch tools",
    ),
    Program("vitrail-devices", ("broker.programs.devices",), ROOT, 46, 5_390, 3_060),
    Program("hooks", ("shims.hooks.hook",), ROOT, 13, 2_030, 1_360),
    Program(
        "OCI hook",
        ("shims.hooks.oci_hook",),
        ROOT,
        10,
        1_530,
        1_010,
        profile_of="hooks",
    ),
    Program(
        "libvirt's hook",
        ("shims.hooks.libvirt_hook",),
        ROOT,
        7,
        660,
        420,
        profile_of="hooks",
    ),
)
"""Ordered as the processes of ``docs/threat-model.md``, phases after their program.  ``brokerctl`` is not here: it
ends with its command, and loads what the verb needs."""

TOGETHER = Size(modules=602, lines=79_930, code=48_500)
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
