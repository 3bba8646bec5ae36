"""``brokerctl open`` reports success once the program in the sandbox gave a sign."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError
from broker.viewer.sandboxes.launch_steps import Step
from broker.viewer.transfer.targets import shown


def program(step=Step.PROGRAM):
    it = SimpleNamespace(
        ended=False, code=None, changed=trio.Event(), way=SimpleNamespace(next=step)
    )

    def change(**values):
        vars(it).update(values)
        before, it.changed = it.changed, trio.Event()
        before.set()

    it.change = change
    return it


async def later(seconds, call):
    await trio.sleep(seconds)
    call()


async def test_a_program_that_ends_with_an_error_has_opened_nothing(autojump_clock):
    it = program()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later, 3, lambda: it.change(ended=True, code=1))
        with pytest.raises(
            RefusedError, match=r"demo-1 did not open the file or address: .* code 1"
        ) as no:
            await shown("demo-1", it)
    assert "brokerctl logs demo-1" in no.value.hint
    assert trio.current_time() == pytest.approx(3)


@pytest.mark.parametrize(
    "change",
    [
        {"ended": True, "code": 0},
        {"way": SimpleNamespace(next=Step.WAYPIPE)},
        {"way": SimpleNamespace(next=None)},
    ],
    ids=["ended well", "display stream", "window"],
)
async def test_a_sign_of_it_is_enough(autojump_clock, change):
    it = program()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later, 3, lambda: it.change(**change))
        await shown("demo-1", it)
        assert trio.current_time() == pytest.approx(3)


async def test_a_program_without_windows_is_not_waited_for_long(autojump_clock):
    await shown("demo-1", program())
    assert trio.current_time() == pytest.approx(30)
