"""A status of any size fits into a message, and counts its omissions."""

from __future__ import annotations

import msgspec
import pytest

from broker.core import limits
from broker.core.errors import InternalError
from broker.core.limits import wayland as wayland_limits
from broker.ipc.control import varlink
from broker.ipc.control.api import (
    PolicyStatus,
    ProcessStatus,
    Status,
    StreamStatus,
    WindowsAnswer,
    WindowStatus,
)
from broker.ipc.control.fitting import fit_status
from broker.ipc.control.varlink import VarlinkReply
from broker.viewer.wayland.window_requests import fit_by_sandbox


def status(sandboxes: int, streams: int, **words: object) -> Status:
    return Status(
        version="0.1.0",
        role="local",
        pid=1,
        since=1_790_000_000.123,
        monotonic=12345.678,
        policy=words.pop("policy", PolicyStatus(digest="ab" * 32)),
        streams=[
            StreamStatus(
                stream=box * streams + number + 1,
                sandbox=f"sandbox-with-a-long-name-{box:05}",
                lease="f" * 32,
                service="vitrail.ClipboardPaste",
                bytes_from_sandbox=number * 1000,
                bytes_to_sandbox=(1 << 40) + box,
                since=1_790_000_000.123,
                mode="splice/copy",
            )
            for box in range(sandboxes)
            for number in range(streams)
        ],
        processes=[
            ProcessStatus(role="worker", pid=box, sandbox="x" * 31, memory=1 << 30)
            for box in range(3 * sandboxes)
        ],
        **words,
    )


def size(value: Status | WindowsAnswer) -> int:
    return len(msgspec.json.encode(value))


def test_a_full_machine_fits_into_a_message() -> None:
    full = status(16, limits.STREAMS_PER_SANDBOX)
    fitted = fit_status(full)
    message = varlink.encode(VarlinkReply(varlink.raw(fitted)))
    assert len(message) <= limits.CONTROL_MESSAGE_BYTES + 1
    assert len(fitted.streams) + fitted.streams_omitted == len(full.streams)
    assert len(fitted.streams) > 3000


def test_what_fits_is_left_alone() -> None:
    small = status(2, 3)
    assert fit_status(small) is small
    assert fit_status(small, size(small)) is small


def test_the_busiest_streams_stay_in_their_order() -> None:
    whole = status(1, 100)
    fitted = fit_status(whole, size(whole) // 2)
    numbers = [stream.stream for stream in fitted.streams]
    assert numbers == [*range(101 - len(numbers), 101)]
    assert 0 < fitted.streams_omitted < 100


@pytest.mark.parametrize("limit", range(400, 4000, 137))
def test_never_larger_than_the_limit(limit: int) -> None:
    whole = status(
        1,
        8,
        warnings=["w" * 100] * 30,
        policy=PolicyStatus(digest="ab" * 32, problems=["p" * 100] * 30),
    )
    bare = msgspec.structs.replace(
        whole, streams=[], streams_omitted=8, warnings=[],
        policy=PolicyStatus(digest="ab" * 32),
    )  # fmt: skip
    assert size(fit_status(whole, limit)) <= max(limit, size(bare))


def window(sandbox: str, number: int) -> WindowStatus:
    return WindowStatus(
        sandbox=sandbox,
        window=number,
        title="\U0001f600" * wayland_limits.WAYLAND_TITLE_CHARS,
        app_id="\U0001f600" * wayland_limits.WAYLAND_APP_ID_CHARS,
        width=1920,
        height=1080,
        focused=False,
    )


def test_windows_of_many_leave_room_for_the_windows_of_others() -> None:
    """So many with long titles, in some sandboxes: 'brokerctl windows' and 'top' failed."""
    crowd = [
        window(f"disp-{box}", number)
        for box in range(16)
        for number in range(wayland_limits.WAYLAND_WINDOWS)
    ]
    honest = [window("work", 1), window("work", 2)]
    whole = WindowsAnswer(windows=[*crowd, *honest], silent=["mail"])
    with pytest.raises(InternalError):
        varlink.encode(VarlinkReply(varlink.raw(whole)))
    fitted = fit_by_sandbox(whole, "windows")
    message = varlink.encode(VarlinkReply(varlink.raw(fitted)))
    assert len(message) <= limits.CONTROL_MESSAGE_BYTES + 1
    assert fitted.windows[-2:] == honest
    assert fitted.omitted + len(fitted.windows) == len(whole.windows)
    assert len(fitted.windows) > 800
    assert fitted.silent == ["mail"]


@pytest.mark.parametrize("count", [0, 1, 100])
def test_windows_that_fit_are_left_alone(count: int) -> None:
    few = WindowsAnswer(windows=[window("work", number) for number in range(count)])
    assert fit_by_sandbox(few, "windows") is few


@pytest.mark.parametrize("limit", range(0, 30_000, 997))
def test_windows_are_never_larger_than_the_limit(limit: int) -> None:
    whole = WindowsAnswer(
        windows=[window(f"b{n % 5}", n) for n in range(50) if n % 5 != 4 or n < 10]
    )
    bare = WindowsAnswer(windows=[], omitted=50)
    assert size(fit_by_sandbox(whole, "windows", limit)) <= max(limit, size(bare))
