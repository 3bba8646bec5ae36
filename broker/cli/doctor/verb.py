"""``brokerctl doctor``: check this machine, and print fixes.

Every check really tries: it opens the device, makes the namespace, asks the
compositor.  Nothing is changed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rich_click as click
import trio
from rich.console import Console
from rich.text import Text

from broker.cli import render
from broker.cli.doctor import host, launchers, shipping, viewer
from broker.cli.doctor.finding import Check, Context, Finding, FindingState, fail
from broker.cli.run.connect import offline_paths
from broker.core.errors import VitrailError
from broker.core.escape import printable

CHECKS: Sequence[tuple[str, Check]] = (
    ("user", host.check_user),
    ("runtime directory", host.check_runtime),
    ("kernel", host.check_kernel),
    ("namespaces", host.check_namespaces),
    ("landlock", host.check_landlock),
    ("audit queue", host.check_audit_queue),
    ("bubblewrap", host.check_bubblewrap),
    ("QEMU", host.check_qemu),
    ("KVM", host.check_kvm),
    ("vsock", host.check_vsock),
    ("ports", host.check_ports),
    ("network", host.check_network),
    ("image tools", host.check_image_tools),
    ("images", host.check_images),
    ("disk", host.check_disk),
    ("compositor", viewer.check_compositor),
    ("sound", viewer.check_sound),
    ("policy", viewer.check_policy),
    ("launchers", launchers.check_launchers),
    ("questions", viewer.check_questions),
    ("broker", viewer.check_broker),
    ("audit", viewer.check_audit),
    ("shipping", shipping.check_shipping),
)
"""In the order in which they are shown: what others depend on comes first."""

_CHECK_SECONDS = 20.0
_MARKS = {
    FindingState.OK: "green",
    FindingState.WARN: "yellow",
    FindingState.FAIL: "bold red",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """Find problems of this machine, and print how to fix them.

    Exit code: 0 no check failed (there may be warnings), 1 a check failed.
    """
    context = Context(offline_paths())
    findings = trio.run(examine, context)
    worst = [f for f in findings if f.state is FindingState.FAIL]
    if as_json:
        render.json_line(
            {
                "ok": not worst,
                "findings": [
                    {"name": f.name, "state": f.state, "text": f.text, "mend": f.mend}
                    for f in findings
                ],
            }
        )
    else:
        _print(findings)
    if worst:
        sys.exit(1)


async def examine(context: Context) -> list[Finding]:
    """Make all checks, side by side, and return their findings in order."""
    found: dict[int, Sequence[Finding]] = {}

    async def one(number: int, name: str, check: Check) -> None:
        found[number] = await _careful(context, name, check)

    async with trio.open_nursery() as nursery:
        for number, (name, check) in enumerate(CHECKS):
            nursery.start_soon(one, number, name, check)
    return [finding for number in sorted(found) for finding in found[number]]


async def _careful(context: Context, name: str, check: Check) -> Sequence[Finding]:
    """Run a check; return a finding if the check itself fails."""
    with trio.move_on_after(_CHECK_SECONDS):
        try:
            return await check(context)
        except VitrailError as error:
            return [fail(name, str(error), error.hint)]
        except OSError as error:
            return [fail(name, f"the check failed: {error}")]
    text = f"the check did not finish within {_CHECK_SECONDS:g} s"
    return [
        fail(name, text, "run 'brokerctl doctor' again when the machine is less busy")
    ]


def _print(findings: Sequence[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.state:<5}", style=_MARKS[finding.state])
        line.append(f"{finding.name:<{width}}  {printable(finding.text, 2000)}")
        console.print(line)
        if finding.mend:
            # guard: remedies drive no terminal
            mend = printable(finding.mend, 2000)
            console.print(Text(f"{'':<5}{'':<{width}}  fix: {mend}"))
    counts = [sum(f.state is state for f in findings) for state in FindingState]
    warnings, failures = (
        render.count(number, noun)
        for number, noun in zip(counts[1:3], ("warning", "failure"), strict=True)
    )
    console.print(Text(f"{counts[0]} ok, {warnings}, {failures}"))
