"""A stage that tests share (tests/kit/shared.py): when it starts, ends, and fails."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager

import pytest
import trio

from tests.kit.shared import Shared


class Request:
    """As much of pytest's as the stage uses."""

    def __init__(self) -> None:
        self.node, self.ends = self, []

    def getparent(self, _kind):
        return self

    def addfinalizer(self, end):
        self.ends.append(end)


class Stages:
    """Notes when its stages begin and end."""

    def __init__(self) -> None:
        self.seen = []

    @asynccontextmanager
    async def stage(self):
        number = len(self.seen)
        self.seen.append(f"begin {number}")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                yield number
                nursery.cancel_scope.cancel()
        except BaseException as error:
            self.seen.append(type(error).__name__)
            raise
        self.seen.append("end")


def test_tests_of_a_module_have_one_stage():
    stages, request = Stages(), Request()
    shared = Shared(stages.stage)

    @shared.test
    async def one(number, more):
        await trio.lowlevel.checkpoint()
        stages.seen.append(f"{number} {more}")

    assert list(inspect.signature(one).parameters) == ["more", "request"]
    one(more="a", request=request)
    one(more="b", request=request)
    assert stages.seen == ["begin 0", "0 a", "0 b"]
    (end,) = request.ends
    end()
    assert stages.seen[3:] == ["end"]


def test_a_failure_goes_through_the_stage_and_the_next_test_has_another():
    stages, request = Stages(), Request()
    shared = Shared(stages.stage)

    @shared.test
    async def one(number, fails):
        await trio.lowlevel.checkpoint()
        assert not fails, "of the test"
        stages.seen.append(number)

    with pytest.raises(ExceptionGroup) as caught:
        one(fails=True, request=request)
    assert caught.group_contains(AssertionError, match="of the test")
    assert stages.seen == ["begin 0", "ExceptionGroup"]
    one(fails=False, request=request)
    for end in request.ends:
        end()
    assert stages.seen[2:] == ["begin 2", 2, "end"]


def test_a_skip_of_the_start_is_a_skip():
    @asynccontextmanager
    async def absent():
        async with trio.open_nursery():
            pytest.skip("it is missing here")
            yield

    @Shared(absent).test
    async def one(_stage):
        raise AssertionError("it has no stage")

    with pytest.raises(pytest.skip.Exception, match="it is missing here"):
        one(request=Request())
