"""The tools: one program of many profiles; each does one thing and ends.

``broker.programs.tools.tool NAME WORD…`` runs the profile of that name and imports its part
alone.  A profile with a ``jail`` becomes bubblewrap first, which runs the program again;
the code of any other confines itself before it reads what is not the user's.

Who starts a tool, and its program, import this table.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_PROGRAM: Final = "broker.programs.tools.tool"
INSIDE: Final = "inside"
"""The first word in the profile's jail."""


class Tool(NamedTuple):
    """A profile: its name, its code, and its jail."""

    name: str
    run: str
    """``MODULE:FUNCTION``: called with the words; may return an exit code."""
    jail: str = ""
    """The same: replaces the process with the tool ``inside`` its jail."""

    @property
    def start(self) -> tuple[str, str]:
        """Return the first arguments of ``our_program``."""
        return _PROGRAM, self.name

    @property
    def inside(self) -> tuple[str, str, str]:
        """Return the same for the program in the jail."""
        return _PROGRAM, INSIDE, self.name


class CarriedTool(NamedTuple):
    """A profile whose jail has none of our files: its code is one file, in memory.

    Who starts it builds that file (``shims.bundle.carried_tool``) and runs it by its
    descriptor.
    """

    verbs: str
    """``MODULE:TABLE`` of its commands by their names, of ``shims/files``."""


MOUNT: Final = Tool("mount", "broker.helpers.mounts.tool:main")
BIND: Final = Tool("bind", "broker.helpers.mounts.binding:main")
PACKET_GUARD: Final = Tool("packet-guard", "broker.host.network.packet_guard:main")
SECURITY_KEY: Final = Tool("security-key", "broker.programs.tools.security_key:main")
LETTERS: Final = Tool("letters", "broker.helpers.prompt.name_strip:main")
FRAME: Final = Tool("frame", "broker.helpers.prompt.screen_frame:main")
BANNER: Final = Tool("banner", "broker.helpers.prompt.use_banner:main")
UNPACK: Final = Tool("unpack", "broker.host.images.unpack:unpack_kernel")
HOST_FILES: Final = Tool(
    "host-files",
    "broker.host.images.host_files:print_files",
    "broker.host.vmm.launch_jails:enter_files",
)
FETCH: Final = Tool(
    "fetch",
    "broker.host.vmm.fetch:fetch_tool",
    "broker.host.vmm.launch_jails:enter_fetch",
)
_ALL = (
    *(MOUNT, BIND, PACKET_GUARD, SECURITY_KEY, LETTERS, FRAME, BANNER),
    *(UNPACK, HOST_FILES, FETCH),
)
TOOLS: Final = {tool.name: tool for tool in _ALL}

FILES: Final = CarriedTool("shims.files.own_files:OWN_VERBS")
SERVICE: Final = CarriedTool("shims.files.calling:DESKTOP_VERBS")
CAMERA: Final = CarriedTool("shims.files.video_node:CAMERA_VERBS")
