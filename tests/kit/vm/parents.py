"""Parents for a test's broker, made before it starts.

A broker makes one in the background some time after the first boot; a test cannot
wait for that.  Parents lie in the person's cache, so that one serves every test
whose record has this name and these properties.
"""

from __future__ import annotations

import fcntl
import time
from functools import partial
from typing import Literal

import trio

from broker.core.names import SandboxName
from broker.core.paths import find_paths
from broker.host.images.store import Image
from broker.host.images.vmlinux import boot_kernel
from broker.host.vmm.parent.parent_files import ParentStore
from broker.host.vmm.parent.request import StartRequest, parent_key
from broker.host.vmm.parent.starting import Starter
from broker.host.vmm.qemu_arguments import VmSpec
from tests.kit.vm.machines import vm_tools
from tests.kit.wayland.compositor import short_directory

Mode = Literal["shared", "copy"]


async def ready_parent(
    image: Image,
    record: str,
    memory_mib: int = 512,
    mode: Mode = "copy",
    *,
    arena: bool = False,
) -> None:
    """See that there is a parent for ``world.record()`` of this name."""
    paths, tools = find_paths(), await vm_tools()
    with short_directory() as place:
        request = StartRequest(
            record=record,
            mode=mode,
            image=image.manifest.digest,
            write_initrd=partial(image.write_initrd, arena=arena),
            warm=("foot",),
            spec=VmSpec(
                name=SandboxName(record),
                kernel=await boot_kernel(image.kernel, tools.accel, paths.cache),
                initrd=image.write_initrd(place),
                root=image.root,
                directory=place / "run",
                logs=place / "logs",
                memory_mib=memory_mib,
                arena_bytes=image.arena_bytes() if arena else 0,
            ),
            tools=tools,
        )
        paths.parents.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (paths.parents / ".test-lock").open("w") as lock:
            # Two workers of one test run make it once.
            await trio.to_thread.run_sync(partial(fcntl.flock, lock, fcntl.LOCK_EX))
            find = ParentStore(paths.parents).find
            if find(record, parent_key(request), time.time())[0] is not None:
                return
            async with trio.open_nursery() as nursery:
                starter = Starter(paths.parents, nursery, print)
                starter.background = False
                await starter.make(request)
                nursery.cancel_scope.cancel()
