"""A fleet's store beside what a machine signed: every single change is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from broker.authority.audit.store import open_store
from broker.cli.audit.proof.shipped import compare
from broker.ipc.audit.query import open_log
from broker.ipc.audit.tree import leaf_hash
from tests.kit.audit.shipping import record

COUNT = 60
Rows = list[tuple[int, str, bytes]]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str], Rows]:
    """A log's name, its checkpoints, and its events; two keys."""
    path = tmp_path_factory.mktemp("log") / "audit.sqlite"

    async def fill() -> None:
        async with open_store(path) as store:
            for first in range(1, COUNT, 10):
                await record(store, first, 10)
                await store.checkpoint()
                if first == 21:
                    await store.evolve()

    trio.run(fill)
    with open_log(path) as log:
        rows = [(n, body, leaf) for n, _, _, body, leaf in log.read(0, 100)]
        # The last key change, at the broker's end, is not shipped yet.
        return log.identity(), [note for *_, note in log.notes(-1, COUNT)], rows


def test_a_shipped_log_matches_its_signatures(
    shipped: tuple[str, list[str], Rows],
) -> None:
    report = compare(*shipped).report
    assert report.good, report.problems
    assert report.checked == report.size == COUNT
    assert report.checkpoints == 4  # at 30, 40, 50 and 60
    assert report.keys >= 2


def fits(body: str) -> bytes:
    return leaf_hash(body.encode())


CHANGES: dict[str, Callable[[Rows, int], Rows]] = {
    "edited": lambda rows, n: [
        *rows[:n], (rows[n][0], rows[n][1] + " ", rows[n][2]), *rows[n + 1 :]],
    "edited to fit": lambda rows, n: [
        *rows[:n], (rows[n][0], rows[n][1] + " ", fits(rows[n][1] + " ")), *rows[n + 1 :]],
    "removed, numbers moved up": lambda rows, n: [
        *rows[:n], *((number - 1, *rest) for number, *rest in rows[n + 1 :])],
    "added": lambda rows, n: [
        *rows[:n], (n + 1, "{}", fits("{}")), *((number + 1, *rest) for number, *rest in rows[n:])],
    "swapped": lambda rows, n: [
        *rows[:n], *((rows[n + i][0], *rows[n + 1 - i][1:]) for i in (0, 1)), *rows[n + 2 :]],
    "cut off": lambda rows, n: rows[:n],
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_every_single_change_is_found(
    shipped: tuple[str, list[str], Rows], change: str
) -> None:
    name, notes, rows = shipped
    for n in range(COUNT - 1):
        changed = CHANGES[change](rows, n)
        report = compare(name, notes, changed).report
        assert not report.good, (change, n)
        assert any(p.first <= n + 1 <= max(p.last, n + 1) for p in report.problems)


def test_rows_that_are_missing_are_a_problem_and_prove_nothing_after_them(
    shipped: tuple[str, list[str], Rows],
) -> None:
    """Without the hashes of removed events no later event can be compared."""
    name, notes, rows = shipped
    report = compare(name, notes, rows[20:]).report
    assert not report.good
    (problem,) = report.problems
    assert (problem.first, problem.last) == (1, 20)
    assert "later events cannot be compared" in problem.what


def test_checkpoints_that_are_not_this_logs(
    shipped: tuple[str, list[str], Rows],
) -> None:
    name, notes, rows = shipped
    assert not compare("0" * 32, notes, rows).report.good
    forged = [note.replace("A", "B", 1) for note in notes[:3]]
    for one in forged:
        if one not in notes:
            assert not compare(name, [*notes, one], rows).report.good
    assert not compare(name, [], rows).report.good
    assert not compare(name, [*notes, "moon"], rows).report.good
    without_keys = [note for note in notes if "vitrail-key" not in note]
    assert not compare(name, without_keys, rows).report.good
