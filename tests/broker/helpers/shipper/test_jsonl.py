"""A file as a receiver: lines that are whole, once each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from broker.authority.audit.store import open_store
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.helpers.shipper.config import JsonlTarget
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.run import make_target, ship_once
from broker.ipc.audit.query import open_log
from tests.kit.audit.shipping import bodies, filled, place, record


async def ship(directory: Path) -> int | VitrailError:
    told: dict[str, int | VitrailError] = {}
    target = JsonlTarget("file", str(directory / "out.jsonl"))
    await ship_once(place(directory), [target], told.__setitem__)
    return told["file"]


def name(directory: Path) -> str:
    with open_log(directory / "audit.sqlite") as log:
        return log.identity()


def lines(directory: Path) -> list[str]:
    """Those of events; the others have a checkpoint each."""
    written = (directory / "out.jsonl").read_text().splitlines()
    return [line for line in written if '"checkpoint":{' not in line]


async def test_a_line_is_the_event_with_its_log_and_machine(tmp_path: Path) -> None:
    await filled(tmp_path, 20)
    assert await ship(tmp_path) == 20
    written = lines(tmp_path)
    front = f'{{"log":"{name(tmp_path)}","machine":"desk",'
    assert [f"{{{line.removeprefix(front)}" for line in written] == bodies(tmp_path)
    assert json.loads(written[0])["machine"] == "desk"
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [1, 100, 250])
async def test_half_a_line_of_a_crash_is_written_again(
    tmp_path: Path, cut: int
) -> None:
    await filled(tmp_path, 20)
    await ship(tmp_path)
    whole = lines(tmp_path)
    (tmp_path / "out.jsonl").write_text("\n".join([*whole, ""]))
    os.truncate(tmp_path / "out.jsonl", (tmp_path / "out.jsonl").stat().st_size - cut)
    again = await ship(tmp_path)
    assert isinstance(again, int)
    assert again >= 1
    assert lines(tmp_path) == whole


@pytest.mark.parametrize(
    "there",
    [b"my notes\nand no end of line", b"{", b'{"log', b'{"lot":', b"x" * 300_000],
    ids=["a line", "begun", "longer", "another", "no line at all"],
)
async def test_a_file_of_another_program_is_not_cut(
    tmp_path: Path, there: bytes
) -> None:
    """Only the beginning of our line is taken back."""
    await filled(tmp_path, 3)
    path = tmp_path / "out.jsonl"
    path.write_bytes(there)
    answer = await ship(tmp_path)
    if there in {b"{", b'{"log'}:
        assert answer == 3
        assert path.read_bytes().startswith(b'{"log":"')
    else:
        assert isinstance(answer, SetupError), answer
        assert "not an event" in str(answer)
        assert path.read_bytes() == there


async def test_a_crash_before_the_cursor_doubles_nothing(tmp_path: Path) -> None:
    await filled(tmp_path, 20)
    await ship(tmp_path)
    whole = lines(tmp_path)
    (tmp_path / "ship/file.json").unlink()
    assert await ship(tmp_path) == 0
    assert lines(tmp_path) == whole


async def test_moved_away_by_logrotate_a_new_file_goes_on(tmp_path: Path) -> None:
    await filled(tmp_path, 20)
    await ship(tmp_path)
    (tmp_path / "out.jsonl").rename(tmp_path / "out.1")
    async with open_store(tmp_path / "audit.sqlite") as store:
        await record(store, 21, 5)
    assert await ship(tmp_path) == 5
    assert [json.loads(line)["sequence"] for line in lines(tmp_path)] == [
        *range(21, 26)
    ]


async def test_another_log_begins_at_its_beginning(tmp_path: Path) -> None:
    await filled(tmp_path, 20)
    await ship(tmp_path)
    for path in tmp_path.glob("audit.*"):
        path.unlink()
    await filled(tmp_path, 7)
    assert await ship(tmp_path) == 7
    assert len({json.loads(line)["log"] for line in lines(tmp_path)}) == 2
    assert load_cursor(tmp_path / "ship", "file").sequence == 7


async def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    (tmp_path / "out.jsonl").mkdir()
    told = await ship(tmp_path)
    assert isinstance(told, UpstreamError)
    (tmp_path / "out.jsonl").rmdir()
    assert await ship(tmp_path) == 3


async def test_a_full_disk_leaves_whole_lines() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    from broker.helpers.shipper.terms import Batch, ShippedItem

    batch = Batch(b"x" * 32, "m", [ShippedItem(1, 1, "a", "{}", b"", {})])
    with pytest.raises(UpstreamError, match="No space"):
        make_target(JsonlTarget("file", str(full))).send(batch)
