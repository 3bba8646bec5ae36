"""Dma-bufs of a real kernel, in a machine that plays a host with a GPU."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.kit.vm.gpu_host import gpu_host

pytestmark = [pytest.mark.machine, pytest.mark.long, pytest.mark.timeout(1100)]
TESTS = "tests/integration/test_gpu_buffers.py"
_SECONDS = 900


async def test_real_dma_bufs_are_checked_and_shown(tmp_path):
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", TESTS]
    code, said = await gpu_host(words, out, _SECONDS)
    print(said)  # shown where it fails
    assert code == 0
    assert "skipped" not in said
    (passed,) = re.findall(r"(\d+) passed", said)
    assert int(passed) >= 9
