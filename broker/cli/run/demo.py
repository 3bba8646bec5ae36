"""``brokerctl demo``: start a sandbox with a window, with or without a desktop.

On a desktop the window is shown there, and the demo stays until the
application has ended.  Without one it is shown on a headless compositor, a
screenshot is written, and everything is ended again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.headless_sway import HeadlessCompositor, open_headless_sway
from broker.cli.images.building.build import build_image
from broker.cli.images.installed import list_images
from broker.cli.link.pairing.role import role_here
from broker.cli.policy.records import EXAMPLES, read_records
from broker.cli.quick.made_record import shared_record
from broker.cli.run.connect import broker_runs, open_client
from broker.cli.run.options import command_after_dashes
from broker.cli.run.progress import Steps
from broker.cli.run.start import end_broker, ensure_broker, refuse_root
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.paths import Paths, find_paths
from broker.helpers.compositor_socket import find_compositor
from broker.host.images.store import DEFAULT_NAME, ImageSpec
from broker.host.vmm.hosttools import (
    fetch_vhost_device_vsock,
    find_vhost_device_vsock,
    kernel_vsock_usable,
)
from broker.ipc.control.api import Nothing, RunRequest
from broker.ipc.control.methods import RUN, STATUS

_WINDOW_SECONDS = 30.0
_LOOK_SECONDS = 0.2
_HELLO = (
    'printf "\\n  Hello from %s, a micro VM with Linux %s.\\n\\n" '
    '"$(hostname)" "$(uname -r)"; exec bash'
)
_SAME_PICTURES = 4


@click.command("demo")
@click.argument("command_words", metavar="[-- COMMAND…]", nargs=-1)
@click.option(
    "--record", default="demo", show_default=True, help="Record of the sandbox."
)
@click.option(
    "--screenshot",
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Write the screenshot to this file (headless only).",
)
def command(
    command_words: tuple[str, ...], *, record: str, screenshot: Path | None
) -> None:
    """Show an application in a disposable micro VM on your screen."""
    argv = command_after_dashes(command_words)
    if argv is None and record == "demo":
        # A window that says where it comes from, without foot's log beside it.
        argv = ["foot", "--log-level=error", "bash", "-c", _HELLO]
    request = RunRequest(record=record, argv=argv)
    trio.run(_demo, request, screenshot)


async def _demo(request: RunRequest, screenshot: Path | None) -> None:
    """Run the demo on the desktop or on a compositor without a screen."""
    refuse_root()
    began = time.monotonic()
    paths = find_paths()
    _refuse_paired(paths)
    steps = Steps()
    async with steps.shown():
        await _prepare(paths, steps)
        if find_compositor() is not None:
            with _its_record(paths, request.record):
                await _on_desktop(paths, request, steps)
            return
        if broker_runs(paths):
            raise SetupError(
                "cannot start the demo with a headless compositor while another "
                "broker is running",
                hint="to stop all sandboxes and the broker, run 'brokerctl stop "
                "--broker'; then run the demo again",
            )
        target = screenshot or _default_screenshot(paths)
        with _its_record(paths, request.record):
            await _headless(paths, request, steps, target)
    render.note(
        f"screenshot: {target}\nThe demo took "
        f"{render.seconds(time.monotonic() - began)}.  {_told_more()}"
    )


def _told_more() -> str:
    # In a checkout brokerctl is not on PATH, and for root it is another user's.
    brokerctl = os.environ.get("VITRAIL_BROKERCTL", "brokerctl")
    return f"To see the recorded events, run '{brokerctl} audit'."


def _default_screenshot(paths: Paths) -> Path:
    """Return the file for the screenshot; its directory is created if it is absent."""
    out = Path(os.environ.get("VITRAIL_OUT") or paths.state)
    out.mkdir(parents=True, exist_ok=True)
    return out / "demo.png"


async def _prepare(paths: Paths, steps: Steps) -> None:
    """Fetch vhost-device-vsock and build the default image, unless they are there."""
    if not kernel_vsock_usable() and find_vhost_device_vsock(paths) is None:
        async with steps.step("fetch vhost-device-vsock"):
            await fetch_vhost_device_vsock(paths, steps.tell)
    present = any(image.name == DEFAULT_NAME for image in list_images(paths))
    # An image of another machine is used if none can be built.
    if present and shutil.which("mmdebstrap") is None:
        return
    async with steps.step("guest image"):
        await build_image(paths, ImageSpec(), steps.tell)


def _refuse_paired(paths: Paths) -> None:
    """Raise SetupError if this machine is one of two paired machines.

    Reads its role, by which its key may be created (``role_here``).
    """
    role = role_here(paths)
    if role is not None:
        raise SetupError(
            f"cannot start the demo: this machine is the {role.name.lower()} of two "
            "paired machines, but the demo needs a single machine",
            hint="run 'brokerctl run SANDBOX' on the viewer instead",
        )


@contextmanager
def _its_record(paths: Paths, name: str) -> Iterator[None]:
    """Hold the example's record while the block runs, unless the user has one.

    It is where a broker that runs already finds it, too.
    """
    example = EXAMPLES / f"{name}.toml"
    found = read_records(paths)
    if name in found.records or name in found.broken or not example.is_file():
        yield
        return
    with shared_record(paths, name, example.read_text(encoding="utf-8")):
        yield


async def _on_desktop(paths: Paths, request: RunRequest, steps: Steps) -> None:
    """Run the demo's program on the user's desktop; start the broker if none runs."""
    started = await ensure_broker(paths)
    wait = RunRequest(record=request.record, argv=request.argv, wait=True)
    try:
        async with open_client(paths) as client:
            render.note(
                "The window will appear on this desktop; to end the demo, close "
                "the window."
            )
            last = await client.call(RUN, wait, steps.item)
    finally:
        if started:
            with trio.CancelScope(shield=True):
                await _end_if_idle(paths)
    if last.exited is not None:
        render.note(f"{last.exited.sandbox} has ended.  {_told_more()}")


async def _end_if_idle(paths: Paths) -> None:
    """Stop the demo's broker, unless other sandboxes run in it by now."""
    with contextlib.suppress(VitrailError):  # it may have ended already
        async with open_client(paths) as client:
            for sandbox in (await client.call(STATUS, Nothing())).sandboxes:
                if sandbox.record != "demo":
                    return
            await end_broker(client)


async def _headless(
    paths: Paths, request: RunRequest, steps: Steps, target: Path
) -> None:
    """Run the demo on a compositor without a screen; write a screenshot.

    Starts a compositor and a broker for it; ends both, and the sandbox, after that.
    """
    runtime = paths.runtime / "headless"
    async with steps.step("start a compositor without a screen"):
        compositor = await open_headless_sway(runtime)
    async with (
        _removed(runtime),
        compositor,
        _own_broker(paths, _environment(compositor), steps),
    ):
        async with open_client(paths) as client:
            await client.call(RUN, request, steps.item)
        async with steps.step("wait for the window"):
            await _wait_window(compositor, request.record)
        async with steps.step("take the screenshot"):
            await _settled_screenshot(compositor, target)


@asynccontextmanager
async def _removed(directory: Path) -> AsyncIterator[None]:
    """Remove a directory completely."""
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _own_broker(
    paths: Paths, environ: Mapping[str, str], steps: Steps
) -> AsyncIterator[None]:
    """Start a broker for this block only; it and its sandboxes end with it."""
    async with steps.step("start the broker"):
        await ensure_broker(paths, environ=environ)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            async with (
                steps.step("end the sandbox, the broker and the compositor"),
                open_client(paths) as client,
            ):
                await end_broker(client)


def _environment(compositor: HeadlessCompositor) -> Mapping[str, str]:
    return {**os.environ, "WAYLAND_DISPLAY": str(compositor.display)}


async def _wait_window(compositor: HeadlessCompositor, record: str) -> None:
    """Wait until a window is shown.  Raises UpstreamError."""
    deadline = trio.current_time() + _WINDOW_SECONDS
    while trio.current_time() < deadline:
        if _windows(await compositor.tree()):
            return
        await trio.sleep(_LOOK_SECONDS)  # sway-ipc's own events need a client library
    raise UpstreamError(
        f"'{record}' did not show a window within {_WINDOW_SECONDS:g} s",
        hint=f"to see the program's output, run 'brokerctl logs {record}'",
    )


async def _settled_screenshot(compositor: HeadlessCompositor, target: Path) -> None:
    """Take screenshots until several in a row are equal; keep the last one."""
    last, same = b"", 0
    deadline = trio.current_time() + _WINDOW_SECONDS
    while same < _SAME_PICTURES and trio.current_time() < deadline:
        await compositor.screenshot(target)
        now = target.read_bytes()
        last, same = now, same + 1 if now == last else 0
        await trio.sleep(_LOOK_SECONDS)


def _windows(node: Mapping[str, object]) -> list[str]:
    """Return the titles of the windows in sway's tree, sway-ipc(7)."""
    found: list[str] = []
    if node.get("shell") is not None:
        found.append(str(node.get("name")))
    for key in ("nodes", "floating_nodes"):
        children = node.get(key)
        if isinstance(children, list):
            for child in children:
                found += _windows(child)
    return found
