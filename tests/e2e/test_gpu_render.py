"""Micro VMs with a GPU: a jailed process draws for their programs."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
import trio

from broker.host.gpu.gpu_renderer import DATA_BYTES, SOFTWARE
from broker.host.images.store import (
    DEFAULT_PACKAGES,
    GPU_KERNEL,
    GPU_PACKAGES,
    ImageSpec,
)
from tests.kit.eventually import eventually
from tests.kit.vm.gpu_qemu import gpu_qemu
from tests.kit.vm.machines import require_vm
from tests.kit.wayland.compositor import pixels, wait_window
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(1100)]
IMAGE = ImageSpec(
    name="gputest",
    packages=(*DEFAULT_PACKAGES, "mesa-utils-extra", "weston", *GPU_PACKAGES),
    kernel=GPU_KERNEL,
)
LAUNCH = 'boot_deadline = 300\nfork = "no"\ngpu = "render"\nimage = "gputest"'
KIT = Path(__file__).parent.parent / "kit"
GREEN = (0, 79, 57)
"""What weston-simple-egl clears its window with, half transparent over the label's colour."""
RENDERER = "vhost-user-gpu"
GL = ("sh", "-c", "eglinfo -B -p wayland | grep renderer")


@pytest.fixture
def software(tmp_path) -> dict[str, str]:
    """The environment of a broker whose renderers have no GPU."""
    require_vm()
    library = tmp_path / "renderer.so"
    source = KIT / "gpu_renderer.c"
    words = ["cc", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(words, check=True)
    path = f"{gpu_qemu(tmp_path / 'qemu')}:{os.environ['PATH']}"
    return {SOFTWARE: str(library), "PATH": path}


async def drawn_window(w, *, red: int) -> None:
    """Wait for the picture that the GPU drew; ``red``: pixels near a corner of it."""

    async def drawn():
        colours = (await pixels(w.comp)).getcolors(1 << 24)
        found = {colour[:3]: n for n, colour in colours}
        seen = sum(n for c, n in found.items() if c[0] > 200 and c[2] < 40)
        return found.get(GREEN, 0) > 50_000 and seen >= red

    await eventually(drawn, deadline=120)
    out = os.environ.get("VITRAIL_PICTURES")
    if out:
        (await pixels(w.comp)).save(f"{out}/gpu-render.png")


async def test_a_renderer_draws_for_a_machine_until_it_hangs_and_dies(software):
    await the_image(IMAGE)
    async with world({"one": record(launch=LAUNCH)}, extra=software) as w:
        last, _ = await w.run("one", "weston-simple-egl")
        sandbox = last.started.sandbox
        await wait_window(w.comp, title="simple-egl")
        await drawn_window(w, red=20)
        _, said = await w.output(sandbox, *GL)
        assert b"virgl" in said
        renderer = await w.pid_of(RENDERER, sandbox)
        root = Path(f"/proc/{renderer}/root")
        assert {path.name for path in (root / "dev").iterdir()} == {"null"}
        assert not (root / "home").exists()
        assert not (root / "proc").exists()
        net = Path(f"/proc/{renderer}/ns/net").readlink()
        assert net != Path("/proc/self/ns/net").readlink()
        bounds = Path(f"/proc/{renderer}/limits").read_text()
        assert re.search(rf"Max data size +{DATA_BYTES} +{DATA_BYTES} ", bounds)

        os.kill(renderer, signal.SIGSTOP)
        lost = await w.wait_event("sandbox.failed", sandbox=sandbox)
        assert lost["reason"].startswith(
            "the guest reported that its GPU does not answer"
        )
        _, said = await w.output(sandbox, *GL)
        assert b"llvmpipe" in said
        assert b"virgl" not in said
        await w.window(sandbox, "after the hang")
        await drawn_window(w, red=0)  # its window has its last picture

        os.kill(renderer, signal.SIGKILL)

        async def told():
            events = w.events("sandbox.failed", sandbox=sandbox)
            return any(RENDERER in event["reason"] for event in events)

        await eventually(told, deadline=60)
        await w.window(sandbox, "after the end")


async def test_random_commands_end_a_renderer_at_most(software):
    noise = shlex.quote((KIT / "vm/guest/virgl_noise.py").read_text())
    await the_image(IMAGE)
    async with world({"one": record(launch=LAUNCH)}, extra=software) as w:
        last, _ = await w.run("one", "sleep", "100000", window=False)
        sandbox = last.started.sandbox
        await w.window(sandbox, "before")
        renderer = await w.pid_of(RENDERER, sandbox)
        qemu = await w.pid_of("QEMU", sandbox)
        with trio.move_on_after(60):  # a call of a machine whose renderer hangs waits
            code, said = await w.output(
                sandbox, "sh", "-c", f"python3 -c {noise} 1 3000"
            )
            print(code, said)
        await w.window(sandbox, "after")
        assert await w.pid_of("QEMU", sandbox) == qemu
        children = Path(f"/proc/{renderer}/task/{renderer}/children")
        assert not children.exists() or not children.read_text()
        print([e["reason"] for e in w.events("sandbox.failed", sandbox=sandbox)])
