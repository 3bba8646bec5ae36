"""zwp_linux_dmabuf_v1: buffers of the graphics driver, only if the record allows them.

The compositor gets the client's own descriptor, which it does not with shared memory:
a dma-buf has a fixed size, cannot be truncated or hole-punched, and is created only by
drivers of the kernel.  The kernel reports what the file is (``Machine.admit_dmabuf``); the
layout of its planes is checked here, before anything is sent to the compositor.

Formats are those that the compositor has announced on this connection, and of them those
whose planes we know (``planes.py``): to our object, and in its feedback.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from broker.core.errors import UpstreamError
from broker.core.limits import wayland as limits
from broker.core.streams.wayland_verdicts import DMABUF
from broker.jail.wayland.buffer_model import Buffer, GpuPicture
from broker.jail.wayland.gpu import planes
from broker.jail.wayland.gpu.planes import LayoutError, Plane
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import Fd, ProtocolFault
from broker.jail.wayland.scene import held_buffers

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

PARAMS, FEEDBACK = "zwp_linux_buffer_params_v1", "zwp_linux_dmabuf_feedback_v1"
VERSION = 3
"""Of our object: the compositor then names all formats by itself."""
_PLANES = 4
_UPSIDE_DOWN = 1
_ROW = struct.Struct("=IIQ")
"""A format, four bytes of padding and a modifier (…_feedback_v1.format_table)."""
ALREADY_USED, PLANE_IDX, PLANE_SET, INVALID_WL_BUFFER = 0, 1, 2, 7


class Params(ProtocolObject):
    """Planes of a picture to come; at the compositor only once they are whole.

    ``wanted`` is the picture that the compositor was asked for (``create``) until it
    answers; ``doomed`` says that the client has gone on without the answer.
    """

    __slots__ = ("doomed", "planes", "used", "wanted")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.planes: dict[int, Plane] = {}
        self.used = False
        self.wanted: tuple[int, int, GpuPicture] | None = None
        self.doomed = False


class Feedback(ProtocolObject):
    """What the compositor advises; ``table`` is the last that it sent."""

    __slots__ = ("table",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.table = b""


def bind(core: ClientState, name: int, version: int) -> None:
    """Bind the compositor's zwp_linux_dmabuf_v1, to learn its formats."""
    if version >= VERSION:
        made = core.own(DMABUF)
        made.events = dispatch.own_events(DMABUF, OWN_EVENTS)
        core.dmabuf = made.sid
        core.up.data += emit.bind(
            core.registry, name, DMABUF.encode(), VERSION, made.sid
        )


def close(core: ClientState) -> None:
    """Close the graphics memory and format tables of the ended connection."""
    for memory in core.gpu_memory:
        memory.close()
    for table in core.format_tables.values():
        table.close()
    core.gpu_memory.clear()
    core.format_tables.clear()


# -- formats -----------------------------------------------------------------------------


def learn_modifier(
    core: ClientState, _manager: ProtocolObject, form: int, high: int, low: int
) -> None:
    """The compositor takes a format with a modifier."""
    core.announced.add((form, high << 32 | low))


OWN_EVENTS: dispatch.Handlers = {"modifier": learn_modifier}


def format_known(core: ClientState, manager: ProtocolObject, form: int) -> None:
    """Announce a format if the filter knows its planes."""
    if form in planes.PARTS:
        core.down.data += _format(manager.cid, form)


def modifier(
    core: ClientState, manager: ProtocolObject, form: int, high: int, low: int
) -> None:
    """Handle the compositor's ``modifier`` event; pass it to clients of version 3."""
    learn_modifier(core, manager, form, high, low)
    if form in planes.PARTS:
        core.down.data += _modifier(manager.cid, form, high, low)


def get_default_feedback(
    core: ClientState, manager: ProtocolObject, new_id: int
) -> None:
    """Forward get_default_feedback; charged, as the answer has a descriptor."""
    # guard: feedback costs more
    core.messages += limits.WAYLAND_POOL_MESSAGES
    made = core.make(new_id, FEEDBACK, manager.version)
    core.up.data += _get_default_feedback(manager.sid, made.sid)


def get_surface_feedback(
    core: ClientState, manager: ProtocolObject, new_id: int, surface: ProtocolObject
) -> None:
    core.messages += limits.WAYLAND_POOL_MESSAGES
    made = core.make(new_id, FEEDBACK, manager.version)
    core.up.data += _get_surface_feedback(manager.sid, made.sid, surface.sid)


def format_table(core: ClientState, feedback: Feedback, fd: Fd, size: int) -> None:
    """Replace the compositor's format table with our copy for the client.

    Raises UpstreamError for a table that cannot be read.
    """
    table = core.machine.read_table(fd, size)
    if table is None or len(table) != size or size % _ROW.size:
        raise UpstreamError(f"invalid format table of {size} bytes")
    feedback.table = table
    copy = core.format_tables.get(table)
    if copy is None:
        copy = core.format_tables[table] = core.machine.paint()
        copy.grow(size)
        copy.write(0, table)
        # guard: a table of formats is sealed
        copy.seal()
    # A connection that asks again and again gets the same file.
    core.down.add(_format_table(feedback.cid, size), [copy.export()])


def tranche_formats(core: ClientState, feedback: Feedback, indices: bytes) -> None:
    """Forward a tranche's formats: only those that the filter knows.

    Raises UpstreamError for a format that is not in the table.
    """
    known = bytearray()
    try:
        for at in range(0, len(indices), 2):
            index = indices[at : at + 2]
            row = int.from_bytes(index, "little") * _ROW.size
            form, _, mod = _ROW.unpack_from(feedback.table, row)
            core.announced.add((form, mod))
            if form in planes.PARTS:
                known += index
    except struct.error as error:
        raise UpstreamError(f"invalid format index: {error}") from error
    core.down.data += _tranche_formats(feedback.cid, bytes(known))


_format = emit.event(DMABUF, "format")
_modifier = emit.event(DMABUF, "modifier")
_format_table = emit.event(FEEDBACK, "format_table")
_tranche_formats = emit.event(FEEDBACK, "tranche_formats")
_get_default_feedback = emit.request(DMABUF, "get_default_feedback")
_get_surface_feedback = emit.request(DMABUF, "get_surface_feedback")


# -- planes ------------------------------------------------------------------------------


def create_params(core: ClientState, manager: ProtocolObject, new_id: int) -> None:
    core.make(new_id, PARAMS, manager.version, server=False)


def add(
    core: ClientState,
    params: Params,
    fd: Fd,
    index: int,
    offset: int,
    stride: int,
    high: int,
    low: int,
) -> None:
    """Add a plane to a buffer's parameters; its descriptor is checked first."""
    try:
        _may_add(params, index)
        core.usage.take("gpu_planes", 1)  # a descriptor here, and one in the compositor
    except ProtocolFault:
        core.machine.close(fd)
        raise
    try:
        memory = core.machine.admit_dmabuf(fd)
    except ValueError as error:
        raise ProtocolFault(
            params.cid, INVALID_WL_BUFFER, f"rejected GPU buffer: {error}"
        ) from error
    for plane in params.planes.values():
        if plane.memory.number == memory.number:
            memory.close()
            memory = plane.memory
            break
    else:
        core.gpu_memory.add(memory)
        # guard: memory of the GPU counted
        core.usage.take("gpu_bytes", memory.size)
    params.planes[index] = Plane(memory, offset, stride, high << 32 | low)


def _may_add(params: Params, index: int) -> None:
    """Raise ProtocolFault where a plane may not be added."""
    _unused(params)
    # guard: four planes
    if index >= _PLANES:
        raise ProtocolFault(params.cid, PLANE_IDX, f"invalid plane index {index}")
    # guard: a plane is set once
    if index in params.planes:
        raise ProtocolFault(params.cid, PLANE_SET, f"plane {index} is already set")


def _unused(params: Params) -> None:
    # guard: parameters make one buffer
    if params.used:
        raise ProtocolFault(
            params.cid, ALREADY_USED, "the parameters were already used"
        )


def create(
    core: ClientState, params: Params, width: int, height: int, form: int, flags: int
) -> None:
    """Forward ``create`` of a GPU buffer; the compositor answers created or failed."""
    picture = _begin(core, params, width, height, form, flags)
    params.wanted = (width, height, picture)
    core.up.data += _create(params.sid, width, height, form, flags)


def create_immed(
    core: ClientState,
    params: Params,
    new_id: int,
    width: int,
    height: int,
    form: int,
    flags: int,
) -> None:
    """Forward ``create_immed`` of a GPU buffer, after all checks."""
    picture = _begin(core, params, width, height, form, flags)
    buffer = core.make(new_id, "wl_buffer", 1)
    buffer.width, buffer.height, buffer.gpu = width, height, picture
    core.up.data += _create_immed(params.sid, buffer.sid, width, height, form, flags)


def _begin(
    core: ClientState, params: Params, width: int, height: int, form: int, flags: int
) -> GpuPicture:
    """Check a GPU picture's planes and format, and send them. Raises ProtocolFault."""
    _unused(params)
    held = params.planes
    mod = held[0].modifier if 0 in held else planes.LINEAR
    try:
        _check_form(core, form, mod, flags)
        planes.check(held, width, height, form)
    except LayoutError as error:
        raise ProtocolFault(params.cid, error.code, str(error)) from error
    core.usage.take("buffers", 1)
    # guard: an import has a pace
    core.spend_pixels(limits.WAYLAND_MAPPING_PIXELS)
    params.used, params.planes = True, {}
    core.up.data += _create_params(core.dmabuf, core.give_sid(params))
    for index, plane in held.items():
        message = _add(
            *(params.sid, index, plane.offset, plane.stride),
            *(mod >> 32, mod & 0xFFFFFFFF),
        )
        core.up.add(message, [plane.memory.export()])
    return _picture(held)


def _check_form(core: ClientState, form: int, mod: int, flags: int) -> None:
    """Raise LayoutError for a format, modifier or flags not announced."""
    # guard: formats that the compositor announced
    if form not in planes.PARTS or (form, mod) not in core.announced:
        raise LayoutError(
            planes.INVALID_FORMAT,
            f"unsupported format {form:#x} with modifier {mod:#x}",
        )
    if flags & ~_UPSIDE_DOWN:
        raise LayoutError(planes.INVALID_FORMAT, f"unsupported flags {flags:#x}")


def _picture(held: dict[int, Plane]) -> GpuPicture:
    memory = {plane.memory.number: plane.memory for plane in held.values()}
    return GpuPicture(tuple(memory.values()), len(held))


def destroy_params(core: ClientState, params: Params) -> None:
    """Release unused planes; wait for the compositor's answer if one is pending."""
    if params.wanted is not None:
        # guard: a buffer that comes too late is destroyed
        params.doomed = params.dead = True
        params.requests = dispatch.dead_requests(PARAMS)
        return
    held_buffers.release_gpu(core, _picture(params.planes))
    params.planes = {}
    core.destroy(params)


def created(core: ClientState, params: Params, sid: int) -> None:
    """Create the client's buffer for a picture that the compositor imported."""
    if params.wanted is None:
        raise UpstreamError("the compositor created a buffer that was not requested")
    width, height, picture = params.wanted
    params.wanted = None
    buffer = Buffer("wl_buffer", 1) if params.doomed else _named(core)
    core.adopt(sid, buffer, {})
    buffer.width, buffer.height, buffer.gpu = width, height, picture
    if params.doomed:
        held_buffers.end(core, buffer)
        core.destroy(params)
        return
    core.arm(buffer)
    core.down.data += _created(params.cid, buffer.cid)


def _named(core: ClientState) -> Buffer:
    buffer = core.make_server_side("wl_buffer", 1)
    assert isinstance(buffer, Buffer)
    return buffer


def failed(core: ClientState, params: Params) -> None:
    """Tell the client that the compositor could not import its buffer.

    Frees what was reserved for it.
    """
    if params.wanted is not None:
        held_buffers.release_gpu(core, params.wanted[2])
        core.usage.give("buffers", 1)
        params.wanted = None
    if params.doomed:
        core.destroy(params)
    else:
        core.down.data += _failed(params.cid)


_create_params = emit.request(DMABUF, "create_params")
_add = emit.request(PARAMS, "add")
_create = emit.request(PARAMS, "create")
_create_immed = emit.request(PARAMS, "create_immed")
_created = emit.event(PARAMS, "created")
_failed = emit.event(PARAMS, "failed")


# -- tables ------------------------------------------------------------------------------

REQUESTS: Rules = {
    (DMABUF, "destroy"): FORWARD,
    (DMABUF, "create_params"): create_params,
    (DMABUF, "get_default_feedback"): get_default_feedback,
    (DMABUF, "get_surface_feedback"): get_surface_feedback,
    (PARAMS, "destroy"): destroy_params,
    (PARAMS, "add"): add,
    (PARAMS, "create"): create,
    (PARAMS, "create_immed"): create_immed,
    (FEEDBACK, "destroy"): FORWARD,
}
EVENTS: Rules = {
    (DMABUF, "format"): format_known,
    (DMABUF, "modifier"): modifier,
    (PARAMS, "created"): created,
    (PARAMS, "failed"): failed,
    (FEEDBACK, "done"): FORWARD,
    (FEEDBACK, "format_table"): format_table,
    (FEEDBACK, "main_device"): FORWARD,
    (FEEDBACK, "tranche_done"): FORWARD,
    (FEEDBACK, "tranche_target_device"): FORWARD,
    (FEEDBACK, "tranche_formats"): tranche_formats,
    (FEEDBACK, "tranche_flags"): FORWARD,
}
CLASSES: Classes = {PARAMS: Params, FEEDBACK: Feedback}
