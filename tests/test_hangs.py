"""A test that hangs costs itself, with the place where it hung, and no other test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HANGS = """\
import pytest
import trio

@pytest.mark.timeout(1)
async def test_waits_for_ever():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)

@pytest.mark.timeout(1)
def test_in_a_loop_of_its_own():
    trio.run(trio.sleep_forever)

async def test_after_it():
    await trio.sleep(0)

def test_with_a_loop_of_its_own_after_it():
    trio.run(trio.sleep, 0)

@pytest.mark.timeout(1)
async def test_by_a_clock_that_is_not_the_wall_s(autojump_clock):
    await trio.sleep(1000)
"""

BEYOND_PYTHON = """\
import signal
import time

import pytest

@pytest.mark.timeout(1)
def test_that_no_signal_ends():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(1000)

@pytest.fixture
def stubborn():
    yield
    time.sleep(1000)

@pytest.mark.timeout(1)
def test_with_a_teardown_that_hangs_again(stubborn):
    time.sleep(1000)

def test_after_them():
    pass
"""


@pytest.mark.slow
def test_a_hang_beyond_python_ends_its_process_and_not_the_run(tmp_path):
    ran = _run(tmp_path, BEYOND_PYTHON, "-n", "1", "--hang-grace=1")
    failed = set(re.findall(r"^(?:FAILED|ERROR) .*::(\w+)", ran.stdout, re.MULTILINE))
    assert failed == {
        "test_that_no_signal_ends",
        "test_with_a_teardown_that_hangs_again",
    }, ran.stdout
    # The second one fails in its call, and again with its process.
    assert re.search(r"^=.* 3 failed, 1 passed", ran.stdout, re.MULTILINE), ran.stdout
    assert "in test_that_no_signal_ends" in ran.stdout + ran.stderr
    assert "in stubborn" in ran.stdout + ran.stderr


def _run(tmp_path, tests, *words):
    (tmp_path / "test_them.py").write_text(tests)
    return subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-c",
                str(ROOT / "pyproject.toml"),
                "-rA",
            ),
            *(
                "--rootdir",
                str(tmp_path),
                "-p",
                "tests.conftest",
                str(tmp_path),
                *words,
            ),
        ],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.mark.slow
@pytest.mark.parametrize("beside", [(), ("-n", "2")], ids=["alone", "beside"])
def test_one_hang_is_one_failure(tmp_path, beside):
    ran = _run(tmp_path, HANGS, *beside)
    failed = set(re.findall(r"^(?:FAILED|ERROR) .*::(\w+)", ran.stdout, re.MULTILINE))
    assert failed == {"test_waits_for_ever", "test_in_a_loop_of_its_own"}, ran.stdout
    assert re.search(r"^=.* 2 failed, 3 passed", ran.stdout, re.MULTILINE)
    assert "HangError: it has not ended within 1 s; it waited at" in ran.stdout
    assert re.search(r"E +nursery.start_soon|E +async with trio.open_nur", ran.stdout)
