"""A first run without a screen, with a real machine."""

from __future__ import annotations

import pytest

from broker.core.errors import SetupError, UpstreamError
from broker.host.vmm.accel import permission
from tests.kit.world import world


@pytest.mark.slow
async def test_without_a_compositor_a_program_without_a_window_runs():
    async with world(start=False) as w:
        w.environ["WAYLAND_DISPLAY"] = str(w.base / "no-such-display")
        await w.start()
        assert any("no compositor" in text for text in (await w.status()).warnings)
        code, said = await w.output("app", "sh", "-c", "echo here; exit 3")
        assert (code, said) == (3, b"here\n")
        with pytest.raises(UpstreamError, match="could not reach the comp") as caught:
            await w.run("app", "foot")
        assert "no compositor answers" in caught.value.message
        assert "--no-window" in caught.value.hint


@pytest.mark.skipif(permission() is None, reason="/dev/kvm can be opened here")
async def test_kvm_without_permission():
    async with world(start=False) as w:
        w.environ["VITRAIL_ACCEL"] = "kvm"
        await w.start()
        with pytest.raises(
            SetupError, match="which VITRAIL_ACCEL=kvm requires"
        ) as caught:
            await w.run("app")
        assert "/dev/kvm" in caught.value.message
        assert "to emulate machines" in caught.value.hint
        assert (await w.status()).sandboxes == []
