"""Worlds of network namespaces: a test's own machines at virtual cables."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import trio

from broker.core.errors import SetupError, VitrailError
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.net.peers.credentials import can_ask_pid_namespaces

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]


def need_cables(*programs: str) -> None:
    """Skip where a program is missing, or no namespaces with cables can be made."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    try:
        trio.run(run_tool, [*UNSHARE, "ip", "link", "add", "v0", "type", "veth"])
    except (VitrailError, SetupError) as error:
        pytest.skip(f"no namespaces with virtual cables to be had: {error}")


def need_boxes_at_cables(*programs: str) -> None:
    """Skip where boxes with a network cannot be, or a program is missing."""
    if not can_ask_pid_namespaces():
        pytest.skip("this kernel cannot tell a process's pid namespace")
    need_cables(*programs)


def played(module: str, *words: str, deadline: float = 300) -> Any:
    """Run a module's world in new namespaces; return what its last line says (JSON)."""

    async def run() -> bytes:
        argv = [*UNSHARE, *our_program(module, *words)]
        return await run_tool(argv, deadline=deadline)

    return json.loads(trio.run(run).splitlines()[-1])
