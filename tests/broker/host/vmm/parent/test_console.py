"""The end of a parent's console, which its guest writes."""

from __future__ import annotations

import os
import re
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.vmm.parent import make


def test_a_console_of_terabytes_is_read_at_its_end(tmp_path):
    path = tmp_path / make._CONSOLE
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.seek(0, os.SEEK_END)
        file.write(b"." * make._TAIL + b"Kernel panic")
    assert make._tail(tmp_path).endswith("Kernel panic")


@pytest.mark.parametrize("text", ["", "early"])
def test_a_short_console_is_shown_whole(tmp_path, text):
    (tmp_path / make._CONSOLE).write_text(text)
    assert make._tail(tmp_path) == text
    assert make._tail(tmp_path / "none") == ""


FLOOD = 5 << 20


class Flooding:
    """A machine in place of QEMU: it writes to its console, and then it ends."""

    def __init__(self):
        self.console = None

    async def spawn(self, _name, serial, _view, *, pass_fds, unjailed):
        assert unjailed is not None
        (word,) = [one for one in serial if "id=console" in one]
        number = int(re.split("=|/", word)[-1])
        assert number in pass_fds
        self.console = os.dup(number)
        os.set_blocking(self.console, False)
        return self

    def qmp(self, _stream):
        return SimpleNamespace(negotiate=self.flood)

    async def flood(self):
        for number in range(FLOOD >> 16):
            await self.write(bytes([65 + number % 26]) * (1 << 16))
        await self.write(b"Kernel panic")
        raise UpstreamError("the parent machine ended")

    async def write(self, data):
        while data:
            try:
                data = data[os.write(self.console, data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.console)

    async def end(self, _grace):
        os.close(self.console)

    def close(self):
        pass


async def test_a_console_that_is_flooded_fills_no_disk(
    tmp_path, monkeypatch, autojump_clock
):
    machine = Flooding()
    monkeypatch.setattr(make, "spawn_jailed", machine.spawn)
    monkeypatch.setattr(make, "Qmp", machine.qmp)
    monkeypatch.setattr(make, "replace", lambda one, **_: one)
    monkeypatch.setattr(make, "qemu_view", lambda *_: None)
    monkeypatch.setattr(make, "forkable_args", lambda *words: words[3].serial)
    plan = SimpleNamespace(
        spec=SimpleNamespace(memory_mib=1),
        tools=SimpleNamespace(vmm=None, accel=None, allow_unjailed=True),
        warm=(),
        write_initrd=lambda _: None,
        background=True,
        shared=False,
    )
    with pytest.raises(UpstreamError, match="Kernel panic"):
        await make.make_parent(plan, tmp_path)
    kept = sum(path.stat().st_size for path in tmp_path.glob(f"{make._CONSOLE}*"))
    assert kept <= 2 * limits.LOG_BYTES
    # It was held back meanwhile.
    least = (FLOOD - (1 << 20)) / limits.CONSOLE_BYTES_PER_SECOND
    assert trio.current_time() >= least
