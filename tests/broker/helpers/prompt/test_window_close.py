"""The dialog's connection ends after the objects that belong to it.

The prompt agent once ended by SIGSEGV in libwayland when its compositor had ended.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading

import pytest

from broker.helpers.process.popen import our_program
from broker.helpers.prompt import window
from broker.ipc import prompt as m


class Proxy:
    """A library object that records its end."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.destroyed = log, name, False

    def destroy(self) -> None:
        assert not self.destroyed
        self.destroyed = True
        self.log.append(self.name)

    def disconnect(self) -> None:
        self.log.append("disconnect")


def test_objects_are_destroyed_before_the_connection():
    log: list[str] = []
    dialog = window.DialogWindow(lambda *_: None, lambda _: None)
    dialog._display = Proxy(log, "display")
    dialog.bury(Proxy(log, "surface"))
    dialog._buffers.add(Proxy(log, "buffer"))
    dialog._syncs.add(Proxy(log, "sync"))
    ended = Proxy(log, "buffer that is ended")
    ended.destroyed = True
    dialog._buffers.add(ended)
    dialog.close()
    assert sorted(log[:-1]) == ["buffer", "surface", "sync"]
    assert log[-1] == "disconnect"


def close_after(listener: socket.socket, size: int) -> None:
    """Be a compositor that ends after so many bytes."""
    end, _ = listener.accept()
    with end:
        read = 0
        while read < size:
            data = end.recv(size - read)
            if not data:
                return
            read += len(data)


@pytest.mark.parametrize("size", [0, 12, 24])
def test_compositor_that_ends_at_once_ends_no_agent_by_a_signal(tmp_path, size):
    path = tmp_path / "display"
    broker_end, agent_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(socket.AF_UNIX) as listener, broker_end, agent_end:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=close_after, args=(listener, size))
        thread.start()
        agent = subprocess.run(
            our_program("broker.programs.prompt", str(agent_end.fileno())),
            env={**os.environ, "WAYLAND_DISPLAY": str(path)},
            pass_fds=[agent_end.fileno()],
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        thread.join()
        assert agent.returncode == 0, agent.stderr
        assert isinstance(m.decode_from_agent(broker_end.recv(1 << 16)), m.Unable)
