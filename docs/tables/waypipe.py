"""A row for each kind of block that waypipe's wire has (``blocks.BlockKind``)."""

from __future__ import annotations

from collections.abc import Mapping

from broker.jail.wayland.waypipe.blocks import BlockKind
from docs.tables.channel import ChannelPolicy, no_descriptors

_ANY = "any stream of the sandbox"
_OPEN = "after the header"
_FILE = "our memory, counted for the sandbox"


def _refused(what: str) -> ChannelPolicy:
    return no_descriptors(
        "never", "never: the stream ends", "reading four bytes", f"Nothing: {what}."
    )


POLICIES: Mapping[BlockKind, ChannelPolicy] = {
    BlockKind.PROTOCOL: ChannelPolicy(
        _ANY,
        _OPEN,
        "what the Wayland messages in it cost (wayland-messages.md)",
        "those that INJECT_RIDS named before: our files and pipes",
        "What its Wayland messages give it.",
    ),
    BlockKind.INJECT_RIDS: no_descriptors(
        _ANY,
        "with ids that it opened before, at most WAYPIPE_FDS_PER_BLOCK",
        "a number in a queue for each id",
        "Nothing before a message takes them.",
    ),
    BlockKind.OPEN_FILE: ChannelPolicy(
        _ANY,
        "with an id that is not in use",
        _FILE,
        "none on the wire; the file is made here, sealed against shrinking",
        "Memory of the worker, inside the sandbox's limit.",
    ),
    BlockKind.EXTEND_FILE: no_descriptors(
        _ANY, "for its file", _FILE, "Memory of the worker, inside the limit."
    ),
    BlockKind.BUFFER_FILL: no_descriptors(
        _ANY,
        "inside its file",
        "copying its bytes",
        "Writes pixels that its next commit shows.",
    ),
    BlockKind.BUFFER_DIFF: no_descriptors(
        _ANY,
        "inside its file",
        "copying its bytes",
        "Writes pixels that its next commit shows.",
    ),
    BlockKind.ARENA_FILL: no_descriptors(
        _ANY,
        "inside its file and its sandbox's arena, where it has one",
        "copying a MiB at most, in 1,024 rows, with the pace of spans",
        "Writes pixels that its next commit shows.",
    ),
    BlockKind.OPEN_IR_PIPE: ChannelPolicy(
        _ANY,
        "with an id that is not in use",
        "our pipe, counted for the stream",
        "none on the wire; both ends are made here",
        "A pipe that carries data out of the guest, to its sandbox.",
    ),
    BlockKind.OPEN_RW_PIPE: ChannelPolicy(
        _ANY,
        "with an id that is not in use",
        "our pipe, counted for the stream",
        "none on the wire; both ends are made here",
        "As OPEN_IR_PIPE.",
    ),
    BlockKind.PIPE_TRANSFER: no_descriptors(
        _ANY,
        "for its pipe, at most WAYPIPE_PIPE_BLOCK_BYTES",
        "a queue of the pipe's, which is bounded",
        "Sends data to another client of its sandbox.",
    ),
    BlockKind.PIPE_SHUTDOWN_R: no_descriptors(
        _ANY, "for its pipe", "closing one end", "Nothing: it ends its pipe."
    ),
    BlockKind.PIPE_SHUTDOWN_W: no_descriptors(
        _ANY, "for its pipe", "closing one end", "Nothing: it ends its pipe."
    ),
    BlockKind.ACK_NBLOCKS: no_descriptors(
        _ANY,
        _OPEN,
        "comparing a number",
        "Nothing: a wrong number ends nothing but its stream.",
    ),
    BlockKind.CLOSE: no_descriptors(
        _ANY, _OPEN, "the stream's end", "Nothing: it ends its stream."
    ),
    BlockKind.OPEN_DMABUF: _refused("GPU buffers are not taken"),
    BlockKind.OPEN_IW_PIPE: _refused("none of our requests has such a pipe"),
    BlockKind.OPEN_DMAVID_SRC: _refused("video is not decoded"),
    BlockKind.OPEN_DMAVID_DST: _refused("video is not decoded"),
    BlockKind.SEND_DMAVID_PACKET: _refused("video is not decoded"),
    BlockKind.OPEN_DMAVID_SRC_V2: _refused("video is not decoded"),
    BlockKind.OPEN_DMAVID_DST_V2: _refused("video is not decoded"),
    BlockKind.OPEN_TIMELINE: _refused("there is no explicit synchronisation"),
    BlockKind.SIGNAL_TIMELINE: _refused("there is no explicit synchronisation"),
    BlockKind.OPEN_ARENA: _refused("only our end has an arena"),
    BlockKind.RESTART: _refused("a stream is not resumed"),
    BlockKind.VERSION: _refused("only our end would choose a version"),
}
"""Every kind, the refused ones too."""
