"""Attack from inside a box: as many processes as the kernel makes.

Process ids are one space for the machine, and systemd bounds a user's processes: a box
that takes them all keeps the broker from starting another sandbox's worker.
"""

from __future__ import annotations

import trio

from broker.core import limits
from broker.host.launchers.bubblewrap import arguments
from broker.host.launchers.bubblewrap.arguments import Box
from tests.kit.boxes import start_held
from tests.kit.needs import requires

pytestmark = requires("bwrap", "/usr/bin/python3")
FEW = 48
FORK = """
import ctypes, os, resource, time
print(*resource.getrlimit(resource.RLIMIT_NPROC))
try:
    resource.setrlimit(resource.RLIMIT_NPROC, (100000, 100000))
    print("raised")
except (OSError, ValueError):
    print("refused")
def bomb():
    made = 0
    for _ in range(200):
        try:
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
            made += 1
        except BlockingIOError:
            break
    return made
here = bomb()
# Another user namespace counts for those around it, too.
ctypes.CDLL(None).unshare(0x10000000)
print(here, bomb())
"""


async def said(tmp_path):
    sockets = tmp_path / "s"
    sockets.mkdir()
    held = await start_held(Box(("/usr/bin/python3", "-I", "-c", FORK), sockets))
    try:
        with trio.fail_after(120):
            held.release()
            # Its children hold the pipe: to the third line, not to the end.
            pipe = held.child.popen.stdout
            lines = await trio.to_thread.run_sync(
                lambda: [pipe.readline().decode().split() for _ in range(3)]
            )
    finally:
        await held.end()
        for pipe in (held.child.popen.stdout, held.child.popen.stderr):
            pipe.close()
    return lines


async def test_a_box_makes_a_bounded_number_of_processes(tmp_path, monkeypatch):
    words = tuple(
        word.replace(str(limits.BOX_PROCESSES), str(FEW))
        for word in arguments.box_gate_words(700)
    )
    monkeypatch.setattr(arguments, "box_gate_words", lambda *_, **__: words)
    limit, raised, (first, second) = await said(tmp_path)
    assert limit == [str(FEW), str(FEW)]
    assert raised == ["refused"]
    assert 0 < int(first) < FEW
    assert int(second) == 0
