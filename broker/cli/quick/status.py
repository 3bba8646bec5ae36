"""``brokerctl status``, the short form: a line for each sandbox, and problems.

Bars and prompts call it, and importing click, msgspec and trio takes longer than the
question.  The answer is read as JSON, so that one function makes the text for this
and for the verb of click (``sandboxes.status``), which reports what fails here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from broker import __version__
from broker.cli import render
from broker.cli.quick.calls import open_calls
from broker.core.errors import VitrailError
from broker.core.escape import printable
from broker.core.paths import find_paths
from broker.ipc.control.blocking_connection import BrokerSilentError

_FIRST_PROCESS = "bwrap"
"""The name of a box's first process, bubblewrap's."""
COLUMNS = "NAME,LABEL,PROGRAM,UP,MEMORY,WINDOWS"
"""With commas between them."""

_Object = Mapping[str, Any]
"""A JSON object, of the type that ``control.api.status`` describes."""


def run() -> int | None:
    """Print the short form and return 0.

    None, and nothing is printed: no broker answered, or its answer is not understood,
    which another version's may be.  Raises BrokerSilentError.
    """
    with ExitStack() as stack:
        try:
            broker = open_calls(stack, find_paths())
            if broker is None:
                return None
            text = summary(broker.call("Status", {}), time.time())
        except BrokerSilentError:
            raise  # the long form would wait as long again
        except (VitrailError, LookupError, TypeError, AttributeError):
            return None
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def summary(status: _Object, now: float) -> str:
    """Return the short form of a ``Status``.  ``now`` in seconds since 1970."""
    lines = [*_problems(status, now)]
    if not status["sandboxes"]:
        return "\n".join([*lines, "no sandboxes are running"]) + "\n"
    memory = memory_of((p["sandbox"], p["memory"]) for p in status["processes"])
    here = status["link"] is None
    rows = [
        _row(s, memory.get(s["name"], 0), now, here=here) for s in status["sandboxes"]
    ]
    return "".join(
        f"{line}\n" for line in [*lines, *_aligned([tuple(COLUMNS.split(",")), *rows])]
    )


def memory_of(processes: Iterable[tuple[str, int | None]]) -> dict[str, int]:
    """Return the memory of all processes of each sandbox, in bytes."""
    found: dict[str, int] = {}
    for sandbox, memory in processes:
        if sandbox:
            found[sandbox] = found.get(sandbox, 0) + (memory or 0)
    return found


def _windows(sandbox: _Object) -> int | None:
    """How many windows it has; None if its worker has not reported it."""
    for limit in sandbox["limits"]:
        if limit["what"] == "windows":
            return int(limit["now"])
    return None


def _problems(status: _Object, now: float) -> Iterator[str]:
    """Yield the problems that a status shows."""
    for sandbox in status["sandboxes"]:
        limits = sandbox["limits"]
        if any(one["what"] == "inhibitors" and one["now"] for one in limits):
            name = printable(sandbox["name"], 60)
            yield f"{name} keeps the screen on"
    if status["version"] != __version__:
        yield (
            "warning: the running broker has version "
            f"{printable(status['version'], 40)}, but brokerctl has version "
            f"{__version__}; to stop the old broker and its sandboxes, run 'brokerctl "
            "stop --broker'"
        )
    policy, link = status["policy"], status["link"]
    if not policy["digest"] or policy["denies_all"]:
        yield "no policy is in force, so everything is denied"
    for problem in policy["problems"]:
        yield f"policy: {printable(problem)}"
    for warning in status["warnings"]:
        yield f"warning: {printable(warning)}"
    if link is not None:
        yield link_line(link)
        if link["loss"]:
            since = render.seconds(max(0.0, now - link["loss_since"]))
            yield f"link: {since} ago {printable(link['loss'])}"
        for warning in (link["other"] or {}).get("warnings", ()):
            yield f"warning from the other machine: {printable(warning)}"


def link_line(link: _Object) -> str:
    """The state of the link, and why none exists."""
    state = printable(link["state"])
    text = f"link: {state}"
    if link["name"]:
        name = printable(link["name"], 60)
        text = f"link: {state} with '{name}'"
    text += f": {printable(link['problem'], 300)}" if link["problem"] else ""
    cure = printable(link.get("cure", ""), 300)
    return text + (f"\n  hint: {cure}" if cure else "")


def _row(sandbox: _Object, memory: int, now: float, *, here: bool) -> tuple[str, ...]:
    """Return a sandbox's row of the short status; ``here``: it runs on this machine."""
    windows = _windows(sandbox)
    programs = ", ".join(program["name"] for program in sandbox["programs"])
    programs = programs or (_box_program(sandbox) if here else "")
    state = sandbox["state"]
    cells = (
        sandbox["name"] + ("" if state == "running" else f" ({state})"),
        sandbox["label"],
        programs or "-",
        render.seconds(max(0.0, now - sandbox["since"])),
        render.size(memory) if memory else "-",
        "-" if windows is None else str(windows),
    )
    return tuple(printable(cell, 60) for cell in cells)


def _box_program(sandbox: _Object) -> str:
    """Return the name of a box's program; empty for other sandboxes.

    Its first process is bubblewrap's, and the program is the first child of that.
    """
    first = sandbox["pid"]
    if first is None or sandbox["cid"] is not None or sandbox["accel"]:
        return ""  # a machine, whose monitor may be in a jail of bubblewrap's
    try:
        if _process_name(first) != _FIRST_PROCESS:
            return ""
        children = _read(f"/proc/{first}/task/{first}/children").split()
        return _process_name(int(children[0])) if children else ""
    except OSError:
        return ""  # it has just ended


def _process_name(pid: int) -> str:
    return _read(f"/proc/{pid}/comm").removesuffix("\n")


def _read(path: str) -> str:
    with Path(path).open(encoding="utf-8", errors="replace") as file:
        return file.read(4096)


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
