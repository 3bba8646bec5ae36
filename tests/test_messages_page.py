"""Each message of each channel has a row, no column is empty, the page is current."""

from __future__ import annotations

import dataclasses
import importlib.util
import typing
from pathlib import Path

import pytest

from broker.core.transfer import entries
from broker.ipc import agent, worker
from broker.ipc.guest import file_requests
from broker.ipc.session import order_rows
from broker.jail.sound.commands import Command
from broker.jail.wayland.waypipe.blocks import BlockKind
from broker.wire.call_messages import AnswerMessage, ErrorMessage, ItemMessage
from docs.tables import ipc as message_policies
from docs.tables import port_frames, session, waypipe
from docs.tables import sound as pulse
from docs.tables import transfer as transfer_policies

_ROOT = Path(__file__).parents[1]


def tags(*unions) -> set[str]:
    """The tags of all messages in some unions."""
    return {
        m.__struct_config__.tag
        for union in unions
        for m in typing.get_args(union) or (union,)
    }


CHANNELS = {
    "pulse": (pulse.POLICIES, set(Command)),
    "waypipe": (waypipe.POLICIES, set(BlockKind)),
    "agent": (message_policies.AGENT, tags(agent.FromGuest, agent.ToGuest)),
    "port": (
        port_frames.POLICIES,
        {"HELLO", "OPEN", "ACCEPT", "DATA", "SHUTDOWN", "CREDIT", "CLOSE"},
    ),
    "transfer": (
        transfer_policies.GUEST,
        tags(file_requests.Ask, file_requests.Reply),
    ),
    "entries": (transfer_policies.ENTRIES, tags(entries.Entry)),
    "session": (
        session.ORDERS,
        {*order_rows.ROWS}
        | {m.__name__ for m in (AnswerMessage, ItemMessage, ErrorMessage)},
    ),
    "worker": (
        message_policies.WORKER,
        tags(
            worker.ToWorker, worker.FromWorker,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("channel", CHANNELS)
def test_messages_each_one_of_a_channel_has_a_row(channel):
    rows, known = CHANNELS[channel]
    assert set(rows) == known


@pytest.mark.parametrize("channel", CHANNELS)
def test_messages_row_has_no_empty_column(channel):
    rows, _ = CHANNELS[channel]
    for name, row in rows.items():
        for column, text in dataclasses.asdict(row).items():
            assert text.strip(), (name, column)
        assert row.gain.endswith("."), name


def test_messages_page_is_what_the_rows_print():
    path = _ROOT / "docs/print_messages.py"
    spec = importlib.util.spec_from_file_location("print_messages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (_ROOT / "docs/messages.md").read_text() == module.page()
