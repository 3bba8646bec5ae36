"""QEMU's vhost-user-gpu: the process that draws for one micro VM.

It reads what the guest sends to its GPU (virgl's OpenGL).  Its jail has a render node of
this machine, Mesa's libraries and lists, and the guest's memory, which QEMU hands to it,
and no other file, no network and no compositor.  Its end does not end its machine.

For tests, ``VITRAIL_GPU_SOFTWARE`` names a library that makes it draw without a node.

The host starts it for a micro VM; brokerctl only looks whether the program is
installed.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from broker.core import limits
from broker.core.distribution import install_hint
from broker.core.errors import SetupError
from broker.helpers.filters import program_filters
from broker.helpers.process.jail_libraries import find_program
from broker.host.gpu.render_nodes import joining, render_nodes, render_words
from broker.host.processes.tracked import Tracked
from broker.host.vmm.vm_state import RENDERER
from broker.host.vmm.vmm_jail import JailView, spawn_jailed

SOFTWARE = "VITRAIL_GPU_SOFTWARE"
DATA_BYTES = 2 << 30
"""The renderer's own memory: guests allocate it.  That of the GPU does not count."""
FILE_BYTES = 1 << 30
"""Of each memory file, as a worker's."""
THREADS = 1024
"""Mesa has one for each of a guest's contexts, and some for each processor."""
# guard: a renderer has bounded memory, files and signals
_BOUNDS = (
    *("prlimit", f"--data={DATA_BYTES}", f"--fsize={FILE_BYTES}"),
    *(f"--sigpending={limits.BOX_SIGNALS}", "--"),
)
# The GPU's memory counts for no limit of a process.
# guard: a renderer ends first where memory ends
_FIRST = ("choom", "-n", "1000", "--")
_PROGRAMS = (
    "/usr/libexec/vhost-user-gpu",
    "/usr/lib/qemu/vhost-user-gpu",
    "/usr/lib/vhost-user-gpu",  # Leap
)
_MESA = "/usr/share/glvnd/egl_vendor.d/50_mesa.json"
_LISTS = ("/usr/share/glvnd", "/usr/share/drirc.d", "/usr/share/libdrm")
"""By which EGL finds Mesa, and Mesa what a driver needs."""


@dataclass(eq=False)
class Renderer:
    """A running renderer, and the connection to it that QEMU gets."""

    process: Tracked
    conn: socket.socket


def find_renderer() -> Path:
    """Return vhost-user-gpu's path.  Raises SetupError if it is not installed."""
    return find_program(
        _PROGRAMS,
        'gpu = "render" requires vhost-user-gpu, which is not installed',
        hint=partial(install_hint, "qemu-system-gui"),
    )


def own_node() -> Path:
    """Return this user's first render node.  Raises SetupError without one."""
    nodes = render_nodes()
    for node in nodes:
        if os.access(node, os.R_OK | os.W_OK):
            return node
    if nodes:
        raise SetupError(
            f'gpu = "render" requires a render node; cannot open {nodes[0]}: permission denied',
            hint=joining(nodes[0]),
        )
    raise SetupError(
        'gpu = "render" requires a render node, but /dev/dri does not contain one',
        hint='set gpu = "none" in [launch] of the record, to draw without a GPU',
    )


def renderer_view(program: Path, node: Path | None, library: str = "") -> JailView:
    """Return the renderer's files in its jail; ``node`` is None without a GPU."""
    words = [word for place in _LISTS for word in ("--ro-bind-try", place, place)]
    # guard: a renderer has one render node and no card
    words += render_words([node]) if node else ()
    readable = (Path(library),) if library else ()
    # There is no place for Mesa's cache.
    words += ["--setenv", "MESA_SHADER_CACHE_DISABLE", "true"]
    # Another vendor's library may start a program, for which the filter kills.
    words += ["--setenv", "__EGL_VENDOR_LIBRARY_FILENAMES", _MESA]
    return JailView(
        program,
        readable=readable,
        words=tuple(words),
        rules=program_filters.renderer_filter,
        open_files=limits.SANDBOX_FDS,
        before=_BOUNDS + _FIRST,
    )


async def few_threads(process: Tracked) -> None:
    """Bound them, counted in its user namespace.  Raises OSError if it ended."""
    # guard: a renderer has a bounded number of threads
    resource.prlimit(process.pid, resource.RLIMIT_NPROC, (THREADS, THREADS))


async def start_renderer(
    *, known: Callable[[Tracked], None], environ: Mapping[str, str] = os.environ
) -> Renderer:
    """Start the renderer process in its jail.

    ``known``: see ``spawn_jailed``.  Raises SetupError, JailError, OSError.
    """
    program = find_renderer()
    library = environ.get(SOFTWARE, "")
    node = None if library else own_node()
    with ExitStack() as undo:
        conn, theirs = socket.socketpair()
        undo.callback(conn.close)
        with theirs:
            argv = [str(program), "--virgl", f"--fd={theirs.fileno()}"]
            process = await spawn_jailed(
                RENDERER,
                argv + ([f"--render-node={node}"] if node else []),
                renderer_view(program, node, library),
                env={"LD_PRELOAD": library} if library else None,
                pass_fds=[theirs.fileno()],
                known=known,
                entered=few_threads,
            )
        process.patience = limits.RENDERER_END_SECONDS
        undo.pop_all()
    return Renderer(process, conn)
