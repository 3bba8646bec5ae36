"""The waypipe client of a sandbox in a container of rootless Podman.

For users with an image of their own, as many socat set-ups have; the default is
the jail of ``launch.waypipe_client``, which gives it less.  The container has
no network, a read-only root, no capabilities and no new privileges; it sees
the one directory with its two sockets, and loses the other one, as there.  It is never pulled: the
image must be in the user's own store.

A container outlives the ``podman`` that started it, so one that a killed
broker left is removed, by its label, before the first new one starts.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio
from typing_extensions import override

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths, read_config
from broker.helpers.process.spawn import STDOUT, run_tool, spawn
from broker.viewer.waypipe import client as waypipe_client
from broker.viewer.waypipe.client import (
    WAYPIPE_ROOM,
    WAYPIPE_SOCKET,
    WaypipeClient,
    make_room,
    refuse_c,
    start_waypipe_client,
    version_in,
    wait_accepting,
)

_INSIDE = "/s"
_LABEL = "io.vitrail.runtime"
_SECONDS = 30.0
_FILE = "waypipe.toml"
_CONFINED = (
    *("--pull=never", "--network=none", "--read-only", "--read-only-tmpfs=false"),
    *("--cap-drop=all", "--security-opt=no-new-privileges"),
    # The directory is ours and private; relabelling it is not ours to do.
    *("--security-opt=label=disable", "--log-driver=none"),
)
_KEPT = ("PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME")


@dataclass(eq=False)
class WaypipePodman:
    """How the containers are started; shared by all sandboxes of a broker."""

    image: str
    runtime: Path
    """The broker's runtime directory: whose containers they are."""
    _swept: bool = False
    _rust: bool = False
    _lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def label(self) -> str:
        """The label of containers that this broker, or its predecessor, started."""
        return f"{_LABEL}={self.runtime}"

    async def require_rust(self) -> None:
        """Refuse an image whose waypipe is of version 0.8 or 0.9.

        Raises SetupError, also when there is no such image, and UpstreamError.
        """
        async with self._lock:
            if not self._rust:
                await _present(self.image)
                words = ["run", "--rm", "--label", self.label, *_CONFINED]
                said = await podman(*words, *_entry(self.image), "--version")
                refuse_c(version_in(said))
                self._rust = True

    async def sweep(self) -> None:
        """Remove, once, what an earlier broker left.  Raises UpstreamError."""
        async with self._lock:
            if self._swept:
                return
            words = ["ps", "-aq", "--filter", f"label={self.label}"]
            found = (await podman(*words)).decode().split()
            if found:
                await podman("rm", "-f", "-t", "0", *found)
            self._swept = True


class _File(msgspec.Struct, forbid_unknown_fields=True):
    podman_image: str


def load_podman(paths: Paths) -> WaypipePodman | None:
    """Return what the first ``waypipe.toml`` says; None without one.

    Raises SetupError with the file's name.
    """
    for directory in paths.config:
        path = directory / _FILE
        try:
            file = msgspec.toml.decode(read_config(path), type=_File)
        except FileNotFoundError:
            continue
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SetupError(
                str(error), where=str(path), hint="it has one key: podman_image"
            ) from error
        if not file.podman_image or file.podman_image.startswith("-"):
            raise SetupError("podman_image names no image", where=str(path))
        return WaypipePodman(file.podman_image, paths.runtime)
    return None


@dataclass(eq=False)
class _InContainer(WaypipeClient):
    name: str = ""

    @override
    async def stop(self) -> int:
        with trio.CancelScope(shield=True):
            try:
                await podman("rm", "-f", "-t", "0", self.name)
            finally:
                code = await WaypipeClient.stop(self)
        return code


async def start_waypipe(
    display_dir: Path, how: Path | WaypipePodman | None
) -> WaypipeClient:
    """Start a client as it was configured; see ``start_waypipe_client``."""
    if isinstance(how, WaypipePodman):
        return await start_in_podman(display_dir, how)
    return await start_waypipe_client(display_dir, how)


async def require_rust(how: Path | WaypipePodman | None) -> None:
    """Refuse a client that is written in C, wherever it would run."""
    if isinstance(how, WaypipePodman):
        await how.require_rust()
    else:
        await waypipe_client.require_rust(how)


async def start_in_podman(display_dir: Path, how: WaypipePodman) -> WaypipeClient:
    """Start a client in a container; return it when its socket accepts.

    Raises SetupError when Podman or the image is missing, UpstreamError when
    the client does not come up.
    """
    await how.sweep()
    await _present(how.image)
    name = f"vitrail-waypipe-{secrets.token_hex(6)}"
    socket_path = display_dir / WAYPIPE_SOCKET
    make_room(display_dir)
    output, output_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        child = spawn(
            ["podman", *_arguments(name, display_dir, how)],
            name="waypipe client",
            env=_environment(),
            stdout=output_in,
            stderr=STDOUT,
        )
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(output_in)
    client = _InContainer(child, socket_path, child.pid, output, "podman", name=name)
    ready = False
    try:
        with trio.fail_after(limits.WAYPIPE_CONTAINER_SECONDS):
            await wait_accepting(client)
        ready = True
    except (trio.TooSlowError, UpstreamError) as error:
        said = client.said() or str(error)
        raise UpstreamError(f"the waypipe client did not start: {said}") from error
    finally:
        if not ready:
            await client.stop()
    return client


def _arguments(name: str, display_dir: Path, how: WaypipePodman) -> list[str]:
    return [
        *("run", "--rm", "--name", name, "--label", how.label, *_CONFINED),
        *("--volume", f"{display_dir}:{_INSIDE}:ro", "--workdir", _INSIDE),
        *("--volume", f"{display_dir / WAYPIPE_ROOM}:{_INSIDE}/{WAYPIPE_ROOM}"),
        *("--env", f"XDG_RUNTIME_DIR={_INSIDE}"),
        *("--env", f"WAYLAND_DISPLAY={_INSIDE}/wayland.sock"),
        *_entry(how.image),
        *(
            "--compress",
            "none",
            "--no-gpu",
            "-s",
            f"{_INSIDE}/{WAYPIPE_ROOM}/{WAYPIPE_SOCKET}",
        ),
        "client",
    ]


def _entry(image: str) -> tuple[str, ...]:
    return ("--entrypoint", '["waypipe"]', image)


async def _present(image: str) -> None:
    try:
        await podman("image", "exists", image)
    except UpstreamError as error:
        raise SetupError(
            f"Podman has no image '{image}'",
            where=_FILE,
            hint="'podman image list' shows yours; none is pulled",
        ) from error


async def podman(*words: str) -> bytes:
    """Run a podman command of this user.  Raises UpstreamError, SetupError."""
    return await run_tool(["podman", *words], env=_environment(), deadline=_SECONDS)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {k: v for k, v in os.environ.items() if k.startswith("CONTAINERS_")}
