"""``brokerctl doctor``: check this machine, and print fixes.

Every check really tries: it opens the device, makes the namespace, asks the
compositor.  Nothing is changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import rich_click as click
import trio
from rich.text import Text

from broker.cli import render
from broker.cli.doctor import host, launchers, link, shipping, viewer, vulnerabilities
from broker.cli.doctor.finding import Check, Context, Finding, FindingState, fail
from broker.cli.doctor.report import ReportOptions, measure
from broker.cli.link.pairing.role import role_here
from broker.cli.run.connect import offline_paths
from broker.cli.run.start import refuse_root
from broker.cli.sandboxes.consent import confirm
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.files.path_errors import path_error
from broker.core.files.replace_file import replace_file
from broker.net.link.wire_types import Role

_HOST = frozenset({Role.HOST})
_VIEWER = frozenset({Role.VIEWER})
_BOTH = _HOST | _VIEWER
CHECKS: Sequence[tuple[str, Check, frozenset[Role]]] = (
    ("system", host.check_system, _BOTH),
    ("user", host.check_user, _BOTH),
    ("runtime directory", host.check_runtime, _BOTH),
    ("kernel", host.check_kernel, _BOTH),
    ("namespaces", host.check_namespaces, _BOTH),
    ("landlock", host.check_landlock, _BOTH),
    ("audit queue", host.check_audit_queue, _BOTH),
    ("bubblewrap", host.check_bubblewrap, _BOTH),
    ("QEMU", host.check_qemu, _HOST),
    ("KVM", host.check_kvm, _HOST),
    ("vsock", host.check_vsock, _HOST),
    ("ports", host.check_ports, _HOST),
    ("network", host.check_network, _HOST),
    ("image tools", host.check_image_tools, _HOST),
    ("images", host.check_images, _HOST),
    ("disk", host.check_disk, _BOTH),
    ("compositor", viewer.check_compositor, _VIEWER),
    ("sound", viewer.check_sound, _VIEWER),
    ("policy", viewer.check_policy, _BOTH),
    ("launchers", launchers.check_launchers, _HOST),
    ("questions", viewer.check_questions, _VIEWER),
    ("broker", viewer.check_broker, _BOTH),
    ("link", link.check_link, _BOTH),
    ("audit", viewer.check_audit, _BOTH),
    ("shipping", shipping.check_shipping, _BOTH),
    ("vulnerabilities", vulnerabilities.check_vulnerabilities, _BOTH),
)
"""In the order in which they are shown: what others depend on comes first.

With the roles of two machines that they are for; one machine alone has all.
"""

_CHECK_SECONDS = 20.0
_MARKS = {
    FindingState.OK: "green",
    FindingState.WARN: "yellow",
    FindingState.FAIL: "bold red",
}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--report",
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Measure this machine in at most two minutes, show the report, and write it.",
)
@click.option("--machine", metavar="RECORD", help="Also start a micro VM of RECORD.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 8),
    default=8.0,
    show_default=True,
    help="Length of each part of a report.",
)
@click.option("-y", "--yes", is_flag=True, help="Write the report without a question.")
def command(
    *,
    as_json: bool,
    report: Path | None,
    machine: str | None,
    seconds: float,
    yes: bool,
) -> None:
    """Find problems of this machine, and print how to fix them.

    With --report, measure instead: start, memory, key to picture, film, scrolling,
    sound, KVM and GPU, without and with a box.  The report has no names of users,
    machines or files; it is shown as a whole before it is written, and sent nowhere.

    Exit code: 0 no check failed (there may be warnings), 1 a check failed, or the report
    was not written.
    """
    if report is not None:
        _write_report(report, ReportOptions(seconds, machine or ""), yes=yes)
        return
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


def _write_report(path: Path, options: ReportOptions, *, yes: bool) -> None:
    """Measure, show all that would be written, and write it if the user agrees."""
    refuse_root()
    question = f"Write this to {printable(str(path), 4000)}?"
    if not sys.stdin.isatty():
        confirm(question, yes=yes)  # refuses before two minutes, not after them
    report = trio.run(measure, Context(offline_paths()), options, render.note)
    text = json.dumps(report, indent=1) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()
    confirm(question, yes=yes)
    replace_file(path, text.encode())
    render.note(f"wrote {path}")


async def examine(context: Context) -> list[Finding]:
    """Make all checks, side by side, and return their findings in order.

    Reads the machine's role, by which its key may be created (``role_here``).
    """
    found: dict[int, Sequence[Finding]] = {}
    try:
        role = role_here(context.paths)
    except VitrailError:
        role = None  # the link's check reports it

    async def one(number: int, name: str, check: Check) -> None:
        found[number] = await _careful(context, name, check)

    async with trio.open_nursery() as nursery:
        for number, (name, check, roles) in enumerate(CHECKS):
            if role is not None and role not in roles:
                continue
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
            found = path_error(error) or UpstreamError(render.cause(error))
            return [fail(name, f"the check failed: {found}", found.hint)]
    text = f"the check did not finish within {_CHECK_SECONDS:g} s"
    return [
        fail(name, text, "run 'brokerctl doctor' again when the machine is less busy")
    ]


def _print(findings: Sequence[Finding]) -> None:
    console = render.plain_console(soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.state:<5}", style=_MARKS[finding.state])
        line.append(f"{finding.name:<{width}}  {printable(finding.text, 2000)}")
        console.print(line)
        if finding.mend:
            # guard: remedies drive no terminal
            mend = printable(finding.mend, 2000)
            fix = f"fix: {mend}"
            console.print(Text(f"{'':<5}{'':<{width}}  {fix}"))
    counts = [sum(f.state is state for f in findings) for state in FindingState]
    warnings = render.count(counts[1], "warning")
    failures = render.count(counts[2], "failure")
    console.print(Text(f"{counts[0]} ok, {warnings}, {failures}"))
