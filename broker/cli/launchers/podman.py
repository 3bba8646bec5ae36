"""``brokerctl run`` of a record with ``launch.kind = "podman"``."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import trio

from broker.cli import render
from broker.cli.doctor.finding import Context, Finding, warn
from broker.cli.homes.kept_home import KeptHome
from broker.cli.launchers.held import (
    HeldRun,
    copy_output,
    held,
    resolver_file,
    variables_of,
)
from broker.cli.launchers.interface import Launcher
from broker.cli.run.progress import Steps
from broker.cli.run.terminal import has_input
from broker.core.distribution import install_command
from broker.core.errors import SetupError, UpstreamError
from broker.core.parts.absent import needed
from broker.core.paths import Paths
from broker.helpers.process.spawn import DEVNULL, PIPE, run_tool, spawn
from broker.host.gpu.render_nodes import render_nodes
from broker.host.launchers.podman.arguments import (
    Container,
    ContainerLimits,
    podman_args,
)
from broker.host.launchers.podman.bound import bound_for_podman
from broker.host.launchers.podman.hooks import PROGRAM, write_hooks
from policy.records.loader import search_path
from policy.records.model import Podman, Record

_REMOVE = ("podman", "rm", "--force", "--time=0", "--ignore")
_WATCH = """\
read -r podman || exit
read -r line && exit
tries=0
while [ $tries -lt 60 ] && kill -0 "$podman" 2>/dev/null; do
    "$@"
    tries=$((tries + 1))
    sleep 0.5
done
"$@"
rm -f -- "$0"
"""
"""Reads Podman's number and a line at the end, which a killed ``brokerctl`` does not write.

Podman is not killed while it makes the container, which would leave a part of it that
it does not know; it ends by itself when its container is removed.
"""
_END_SECONDS = 20.0
_KEPT = (
    *("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),
    *("DBUS_SESSION_BUS_ADDRESS", "TMPDIR"),
)
"""Podman's own settings; a container gets none of the user's environment."""


async def _begin(run: HeldRun, launch: Podman) -> tuple[str, int]:
    """Run a container to its end; the exit code 125 is Podman's own error."""
    paths, record = run.paths, run.record
    container = _described(run, launch)
    hooks, env = _hooks(paths), _environment()
    container = replace(container, resolver=resolver_file(hooks, launch.network))
    if record.viewer.window.x11:
        with needed("the display of X11 programs"):
            from broker.cli.x11.verb import write_bridge

        bridge = write_bridge(hooks / "vitrail-x11")
        command = await _whole_command(container, env)
        container = replace(container, bridge=bridge, command=command)
    async with bound_for_podman(hooks, run.without_links, env) as places:
        # guard: Podman gets no path that a sandbox can change
        container = replace(container, places=places)
        code = await _run_container(paths, container, run.home, run.steps)
    return record.name, code


async def _whole_command(
    container: Container, env: Mapping[str, str]
) -> tuple[str, ...]:
    """Ask Podman for the image's ENTRYPOINT; return the container's whole command.

    The bridge starts it in their place.  Raises UpstreamError where Podman does not
    have the image, SetupError where Podman is missing.
    """
    if container.image is None:
        return container.command
    words = ("image", "inspect", "--format", "{{json .Config}}", container.image)
    found = await run_tool(["podman", *words], env=env)
    image = msgspec.json.decode(found, type=_ImageConfig)
    return (*(image.entrypoint or ()), *(container.command or image.command or ()))


class _ImageConfig(msgspec.Struct):
    """What an image starts (OCI image specification, "config")."""

    entrypoint: tuple[str, ...] | None = msgspec.field(name="Entrypoint", default=None)
    command: tuple[str, ...] | None = msgspec.field(name="Cmd", default=None)


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _KEPT if name in os.environ}


async def _run_container(
    paths: Paths, container: Container, home: KeptHome | None, steps: Steps
) -> int:
    """Run a container under a lease to its end; return its exit code."""
    hooks = _hooks(paths)
    env = _environment()
    cid = hooks / f"cid-{secrets.token_hex(6)}"
    # conmon(8) inherits it from Podman, and lives as long as the container.
    # guard: a container whose brokerctl was killed keeps its home in use
    lock = () if home is None else (home.lock,)
    async with _ended_with_us(cid, env) as watched:
        child = spawn(
            podman_args(container, hooks, cid, paths.runtime),
            name="podman",
            env=env,
            cwd="/",
            pass_fds=lock,
            stdin=0 if container.stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            outlive_us=True,
        )
        watched(child.pid)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy_output, child, steps)
                code = await child.wait()
                nursery.cancel_scope.deadline = trio.current_time() + 1
        finally:
            with trio.move_on_after(_END_SECONDS, shield=True):
                if child.returncode is None:
                    # A container outlives the podman that started it.
                    await run_tool([*_REMOVE, "--cidfile", str(cid)], env=env)
                await child.stop()
            cid.unlink(missing_ok=True)
    return code


@asynccontextmanager
async def _ended_with_us(
    cid: Path, env: Mapping[str, str]
) -> AsyncIterator[Callable[[int], None]]:
    """Remove a container even if this process is killed during the block.

    The container would run on, as would its window, until ``brokerctl stop``.  Nothing
    of ours is left that could remove it, so a shell waits for the end of our pipe.
    The block calls what is yielded with the number of its Podman.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    words = ["sh", "-c", _WATCH, str(cid), *_REMOVE, "--cidfile", str(cid)]
    try:
        # guard: a container ends with the brokerctl that runs it
        watch = spawn(
            words,
            env=env,
            stdin=read,
            stdout=DEVNULL,
            stderr=DEVNULL,
            outlive_us=True,
        )
        try:
            yield lambda pid: _write(write, f"{pid}\n")
        finally:
            with trio.CancelScope(shield=True):
                _write(write, "\n\n")
                await watch.wait()
    finally:
        os.close(read)
        os.close(write)


def _write(fd: int, text: str) -> None:
    with suppress(BrokenPipeError):  # the shell was killed
        os.write(fd, text.encode())


def _require_image(record: Record, launch: Podman) -> None:
    """Raise SetupError for a record that names neither image nor root."""
    if launch.image is None and launch.rootfs is None:
        raise SetupError(
            f"record '{record.name}' has neither container_image nor rootfs",
            where=record.where("launch.container_image"),
            hint="set one of these keys, or start the container with 'podman run "
            f"--annotation io.vitrail.sandbox={record.name}'",
        )


def _described(run: HeldRun, launch: Podman) -> Container:
    """Build a record's container; tells of absent limits."""
    record = run.record
    limits = ContainerLimits(launch.memory_mib, launch.pids)
    if not can_limit():
        render.note(
            "memory and processes are not limited: this user's control group does "
            "not have the memory and pids controllers"
        )
    return Container(
        record=record.name,
        command=run.command,
        image=launch.image,
        rootfs=launch.rootfs,
        read_only=launch.read_only,
        read_write=launch.read_write,
        home=run.tree,
        limits=limits if can_limit() else None,
        variables=variables_of(record),
        open_files=launch.open_files,
        stdin=has_input(),
        devices=render_nodes() if launch.gpu == "buffers" else (),
        mounts=launch.mounts,
    )


def can_limit(root: Path = Path("/sys/fs/cgroup")) -> bool:
    """Return whether our control group delegates the memory and pids controllers."""
    try:
        words = Path("/proc/self/cgroup").read_text()
        own = next(w[3:] for w in words.splitlines() if w.startswith("0::"))
        found = (root / own.lstrip("/") / "cgroup.controllers").read_text().split()
    except (OSError, StopIteration):
        return False
    return {"memory", "pids"} <= set(found)


def _hooks(paths: Paths) -> Path:
    """Write the hook for this run's broker; return its directory."""
    folder = paths.runtime / "oci"
    program = folder / PROGRAM
    write_hooks(
        folder, program, paths.control, search_path(paths.runtime, paths.config)
    )
    return folder


_MIXED = Path("/sys/fs/cgroup/unified")
"""Where the unified hierarchy is, on a machine that has both versions."""


async def _check(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Check whether Podman's runtime supports this machine's control groups."""
    del records
    podman = shutil.which("podman", path=context.environ.get("PATH"))
    if podman is None or not _MIXED.exists():
        return []
    words = [podman, "info", "--format", "{{.Host.OCIRuntime.Name}}"]
    try:
        name = (await run_tool(words, env=context.environ)).decode().strip()
    except (UpstreamError, OSError) as error:
        text = f"cannot determine Podman's runtime: {error}"
        return [warn("launchers", text, "to see the error, run 'podman info'")]
    if name != "crun":
        return []
    text = (
        "crun cannot start containers on a system with both versions of control groups"
    )
    mend = install_command("runc")
    mend += '; then set runtime = "runc" in [engine] of containers.conf'
    return [warn("launchers", text, mend)]


LAUNCHER = Launcher(
    run=held(Podman, _begin, _require_image),
    programs=(("podman", "podman"),),
    check=_check,
)
