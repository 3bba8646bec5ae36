"""A model of a compositor that takes memory of the GPU, and a client that has some."""

from __future__ import annotations

import struct
from typing import Any

from broker.core.streams.wayland_rules import WindowRules
from broker.core.streams.wayland_verdicts import DMABUF
from tests.kit.wayland.machine import Token
from tests.kit.wayland.model import GLOBALS, Model, Thing
from tests.kit.wayland.talk import Talk

AR24, NV12, UNKNOWN = (int.from_bytes(w, "little") for w in (b"AR24", b"NV12", b"Q410"))
LINEAR, TILED = 0, 1 << 56 | 2
TABLE = [(AR24, LINEAR), (AR24, TILED), (NV12, LINEAR), (UNKNOWN, LINEAR)]
ROWS = b"".join(struct.pack("=IIQ", form, 0, mod) for form, mod in TABLE)
PARAMS = "zwp_linux_buffer_params_v1"
RULES = WindowRules("work", allow=frozenset({DMABUF}))
OFFERS = [o for o in GLOBALS if o[0] != DMABUF] + [(DMABUF, 5)]


class GpuModel(Model):
    """``imports`` says whether buffers can be made; ``answers`` whether it says so."""

    def __init__(self, offers: list[tuple[str, int]] | None = None) -> None:
        super().__init__(OFFERS if offers is None else offers)
        self.imports = self.answers = True
        self.waiting: list[Thing] = []

    def wl_registry_bind(
        self, registry: Thing, name: int, kind: bytes, version: int, oid: int
    ) -> None:
        super().wl_registry_bind(registry, name, kind, version, oid)
        if kind.decode() == DMABUF and version == 3:
            for form, mod in TABLE:
                self.tell(self.things[oid], "format", form)
                self.tell(
                    self.things[oid], "modifier", form, mod >> 32, mod & 0xFFFFFFFF
                )

    def zwp_linux_dmabuf_v1_get_default_feedback(self, _m: Thing, made: Thing) -> None:
        self.tell(made, "format_table", len(ROWS))
        self.out_fds += 1
        self.tell(made, "main_device", b"\1\0\0\0\0\0\0\0")
        self.tell(made, "tranche_target_device", b"\1\0\0\0\0\0\0\0")
        self.tell(made, "tranche_flags", 0)
        self.tell(made, "tranche_formats", struct.pack("=4H", 0, 1, 2, 3))
        self.tell(made, "tranche_done")
        self.tell(made, "done")

    def zwp_linux_buffer_params_v1_add(
        self, params: Thing, _fd: None, index: int, *where: int
    ) -> None:
        assert index not in params.state
        params.state[index] = where

    def zwp_linux_buffer_params_v1_create_immed(
        self, params: Thing, buffer: Thing, w: int, h: int, form: int, _flags: int
    ) -> None:
        self._check(params, w, h, form)
        buffer.state["size"] = (w, h)

    def zwp_linux_buffer_params_v1_create(
        self, params: Thing, w: int, h: int, form: int, _flags: int
    ) -> None:
        self._check(params, w, h, form)
        params.state["size"] = (w, h)
        self.waiting.append(params)
        if self.answers:
            self.answer()

    def answer(self) -> None:
        """Say of each buffer that was asked for whether it was made."""
        waiting, self.waiting = self.waiting, []
        for params in waiting:
            if not self.imports:
                self.tell(params, "failed")
                continue
            buffer = Thing(self.server_id, "wl_buffer")
            buffer.state["size"] = params.state["size"]
            self.things[self.server_id] = buffer
            self.server_id += 1
            self.tell(params, "created", buffer)

    def _check(self, params: Thing, w: int, h: int, form: int) -> None:
        planes = [n for n in params.state if isinstance(n, int)]
        assert sorted(planes) == list(range(len(planes)))
        modifiers = {params.state[n][2:] for n in planes}
        assert len(modifiers) == 1
        (mod,) = modifiers
        assert (form, mod[0] << 32 | mod[1]) in TABLE
        assert 0 < w <= 16384
        assert 0 < h <= 16384


class GpuTalk(Talk):
    """A client whose record has ``gpu = "buffers"``."""

    def __init__(self, rules: WindowRules = RULES, **more: Any) -> None:
        model = more.pop("model", None) or GpuModel()
        super().__init__(rules, model=model, **more)
        self.machine.table = ROWS

    def begin(self, version: int | None = None) -> GpuTalk:
        """Bind what a client needs."""
        self.start()
        self.dmabuf = self.bind(DMABUF, version)
        self.roundtrip()
        return self

    def params(self, *planes: tuple[Any, ...], modifier: int = LINEAR) -> int:
        """Parameters of planes: (descriptor, offset, stride)."""
        made = self.make(self.dmabuf, "create_params", PARAMS)
        for index, (fd, offset, stride) in enumerate(planes):
            self.add(made, fd, index, offset, stride, modifier)
        return made

    def add(
        self,
        params: int,
        fd: Token,
        index: int = 0,
        offset: int = 0,
        stride: int = 400,
        modifier: int = LINEAR,
    ) -> None:
        high, low = modifier >> 32, modifier & 0xFFFFFFFF
        self.send(params, "add", index, offset, stride, high, low, fds=[fd])

    def immediate(
        self, params: int, w: int = 100, h: int = 50, form: int = AR24, flags: int = 0
    ) -> int:
        """A buffer at once."""
        return self.make(params, "create_immed", "wl_buffer", None, w, h, form, flags)

    def picture(self, w: int = 100, h: int = 50) -> int:
        """A buffer of the usual kind, in separate memory."""
        fd = self.machine.dmabuf(4 * w * h)
        made = self.params((fd, 0, 4 * w))
        buffer = self.immediate(made, w, h)
        self.send(made, "destroy")
        return buffer

    def busy(self, value: bool = True) -> None:
        """Somebody draws into the newest memory, or has done so."""
        self.machine.dmabufs[-1].busy = value
