"""What a living keeper has loaded, which a look at its imports does not show."""

from __future__ import annotations

import trio

from broker.core.names import SandboxName
from docs.tables.imports import modules, size
from tests.kit import workers as workers_kit
from tests.kit.workers import open_workers

MOST = 4_270
"""Lines of our code in a keeper."""


async def test_a_living_keeper_has_little_loaded(tmp_path, monkeypatch, capsys):
    """Its parent's modules count: no worker, no event loop."""
    reports = tmp_path / "modules"
    monkeypatch.setenv("VITRAIL_DEBUG", str(reports))
    monkeypatch.setattr(workers_kit, "HELPER_SERVER", "tests.kit.reporting_keeper")
    async with open_workers(allow_unjailed=True) as workers:
        name = SandboxName("work")
        worker = await workers.open_worker(name, tmp_path, tmp_path / "no")
        with trio.fail_after(60):
            while not reports.exists() or not reports.read_text().endswith("\n"):
                await trio.sleep(0.01)
        pid, *loaded = reports.read_text().split()
        assert int(pid) == worker.keeper_pid
        await worker.close()
    ours = [name for name in loaded if name in modules()]
    total = size(ours).code
    with capsys.disabled():
        print(f"\na living keeper has {len(ours)} modules, {total} lines of code")
    assert "broker.programs.worker" not in loaded
    assert "trio" not in loaded
    assert 500 < total <= MOST
