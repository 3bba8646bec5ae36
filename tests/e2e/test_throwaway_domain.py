"""``brokerctl run`` of a domain that libvirt makes for it, and the domain's removal."""

from __future__ import annotations

import pytest

from tests.e2e.test_libvirt import GREEN, leased
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.records import shown_record
from tests.kit.vm.libvirt import libvirt, require_libvirt
from tests.kit.vm.machines import require_vm
from tests.kit.wayland.compositor import wait_frames, wait_window, windows
from tests.kit.world import world

RECORD = shown_record(
    'kind = "libvirt-qemu"', 'memory = "512M"', colour="green", of="disposable"
)
DOMAIN = "vitrail-work"


@pytest.fixture(autouse=True)
def _needs():
    require_vm()
    require_libvirt()


async def ended(w, virt):
    """Nothing of the domain is left: process, lease, directories."""
    await w.wait_event("lease.end", sandbox="work")
    assert (await virt.virsh("list", "--all", "--name")).split() == []

    async def gone():
        left = [*w.paths.runtime.glob("domain-*"), w.paths.runtime / "libvirt/work"]
        return not any(path.exists() for path in left)

    assert await eventually(gone)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_its_window_is_framed_and_it_ends_with_a_killed_run():
    async with world({"work": RECORD}) as w, libvirt(w) as virt:
        title = "thrown away"
        words = ("run", "work", "--", "foot", "-T", title, "sleep", "1000")
        async with running(*words, env=w.environ) as child:
            held = await leased(w, "work")
            assert held.pid == virt.pid(DOMAIN)
            await wait_window(w.comp, title=title, deadline=300)
            await wait_frames(w.comp, {f"[work] {title}": {GREEN}})
            # A second program goes into the same domain, which lives on after it.
            said = await brokerctl(
                *("run", "-q", "--no-window", "work", "--", "uname", "-n"),
                env=w.environ,
                deadline=300,
            )
            assert (said.code, said.out) == (0, "work\n"), said
            assert (await leased(w, "work")).id == held.id
            child.kill()
            await child.wait()
        await ended(w, virt)

        async def none():
            return not windows(await w.comp.tree())

        assert await eventually(none)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_its_programs_code_is_the_runs_also_where_the_hook_reports():
    async with world({"work": RECORD}) as w, libvirt(w) as virt:
        assert (await virt.virsh("list", "--name")).split() == []  # with the hook
        script = 'echo "$(uname -n)"; exit 7'
        said = await brokerctl(
            *("run", "-q", "--no-window", "work", "--", "sh", "-c", script),
            env=w.environ,
            deadline=400,
        )
        assert (said.code, said.out) == (7, "work\n"), said
        await ended(w, virt)


async def test_a_run_that_would_outlive_its_command_is_refused():
    async with world({"work": RECORD}) as w:
        said = await brokerctl("run", "-d", "work", "--", "foot", env=w.environ)
        assert said.code == 1
        assert "which is created for each run" in said.err
        assert not (await w.status()).leases


async def test_libvirts_own_words_say_why_it_did_not_start(tmp_path):
    virsh = tmp_path / "virsh"
    virsh.write_text("#!/bin/sh\necho 'error: no \033[31mroom' >&2\nexit 1\n")
    virsh.chmod(0o755)
    async with world({"work": RECORD}) as w:
        env = {**w.environ, "PATH": f"{tmp_path}:{w.environ['PATH']}"}
        said = await brokerctl("run", "-q", "work", "--", "foot", env=env)
        assert said.code == 1
        assert "was started: error: no \\x1b[31mroom" in said.err
        assert not list(w.paths.runtime.glob("domain-*"))
