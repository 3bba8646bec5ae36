"""The jail where the machine does not give it, and the filters' programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from broker.core.errors import InternalError
from broker.helpers.filters import program_filters
from broker.helpers.filters.keeper_filter import keeper_filter
from broker.helpers.worker_jail import entering, worker_filter

_ROOT = Path(__file__).parents[2]

# In a user namespace that may have no further ones.
NO_NAMESPACES = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--disable-userns"]

SCRIPT = """
import os, sys, trio
from pathlib import Path
from broker.core.errors import SetupError
from tests.kit.workers import open_workers
async def main():
    async with open_workers(allow_unjailed=sys.argv[1] == "allow") as workers:
        place = Path(sys.argv[2])
        try:
            worker = await workers.open_worker("work", place, place / "no")
        except SetupError as error:
            print("refused", error.diagnostics())
            return
        print("jail", worker.jail)
        print(Path(f"/proc/{worker.inner_pid}/status").read_text())
        print(await worker.statistics())
trio.run(main)
"""


def _without_namespaces(word, directory):
    done = subprocess.run(
        [*NO_NAMESPACES, "--", sys.executable, "-c", SCRIPT, word, str(directory)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_without_namespaces_a_worker_refuses_and_says_what_to_do(tmp_path):
    said = _without_namespaces("refuse", tmp_path)
    assert said.startswith("refused cannot create a worker's jail: ")
    assert "new namespaces" in said
    assert "hint: ask whoever configured this machine" in said
    assert list(tmp_path.iterdir()) == []


def test_told_otherwise_it_starts_behind_the_other_walls_and_says_so(tmp_path):
    said = _without_namespaces("allow", tmp_path)
    assert "jail Jail(namespaces=False, seccomp=True" in said
    assert "new namespaces" in said
    assert "Seccomp:\t2" in said
    assert "NoNewPrivs:\t1" in said
    assert "CapEff:\t0000000000000000" in said
    assert "Statistics(clients=0" in said


@pytest.mark.parametrize(
    "program",
    [
        worker_filter.worker_filter,
        keeper_filter,
        program_filters.vmm_filter,
        program_filters.renderer_filter,
    ],
)
def test_a_filter_is_a_program_that_the_kernel_takes(program):
    made = program()
    assert len(made) % 8 == 0
    assert 0 < len(made) // 8 < 4096  # BPF_MAXINSNS
    assert program() is made


def test_standard_streams_are_never_kept():
    with pytest.raises(InternalError):
        entering.close_others([1, 5])
