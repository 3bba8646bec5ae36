"""``brokerctl policy graph``: draw permitted calls."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.policy.load import (
    JSON,
    POLICY,
    WORLD,
    records_beside,
    refusing_too_many,
    require_sandbox,
    rules_of,
    situation_from,
)
from broker.cli.policy.records import end_by_problems
from broker.cli.transfer.named_path import NamedPath, opened_target
from broker.core.distribution import install_command
from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.files.replace_file import replace_file
from broker.helpers.process.spawn import run_tool
from policy.records.patterns import PALETTE
from policy.rules.world import World
from policy.tools import limits as tool_limits
from policy.tools.flows import Flow, flows
from policy.tools.graph import graph_text

_LAYOUT_SECONDS = 60.0
_PICTURE_BYTES = 16 << 20


@click.command()
@POLICY
@WORLD
@click.option(
    "--sandbox",
    "sandboxes",
    multiple=True,
    help="Show only arrows from or to this sandbox.",
)
@click.option(
    "--service",
    "services",
    multiple=True,
    help="Show only this service, such as vitrail.OpenURL.",
)
@click.option(
    "-o",
    "--output",
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Write the picture to this file instead of standard output.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "dot"]),
    default="svg",
    show_default=True,
    help="Output format: a picture, or the graph for Graphviz.",
)
@JSON
def graph(
    *,
    policy: tuple[Path, ...],
    world: Path | None,
    sandboxes: tuple[str, ...],
    services: tuple[str, ...],
    output: Path | None,
    form: str,
    as_json: bool,
) -> None:
    """Draw permitted calls between sandboxes, in the colours of their labels.

    A solid arrow is allowed; for a dashed arrow, every call asks.  The number of an arrow
    refers to the list below the picture.  Denied calls have no arrow.  With --json, print
    the arrows as a list.

    The program dot of Graphviz draws SVG; --format dot and --json do not need it.

    Exit code: 0 done, 1 a sandbox does not exist, the graph is too large or dot is not
    installed, 3 the rules have an error.
    """
    # A world of a file is a sketch: its rules alone.
    rules = rules_of(policy, alone=world is not None)
    situation = situation_from(world, policy=policy)
    known = situation.world
    end_by_problems(rules.problems)
    for name in sandboxes:
        require_sandbox(known, name)
    with refusing_too_many():
        flow_graph = flows(
            rules,
            known,
            permitted=situation.permitted,
            sandboxes=sandboxes,
            services=services,
        )
    if as_json:
        render.json_line({"flows": [flow._asdict() for flow in flow_graph]})
        return
    _refuse_too_many(flow_graph)
    text = graph_text(
        flow_graph, known, _colours(known, world, policy), _title(sandboxes, services)
    )
    picture = text if form == "dot" else _draw(text)
    if output is None:
        sys.stdout.write(picture)
        return
    try:
        with opened_target(output) as target:
            replace_file(target, picture.encode(), mode=0o644)
    except OSError as error:
        raise RefusedError(
            f"cannot write {output}: {error.strerror}",
            hint="specify another file",
        ) from error
    render.note(f"{len({(f.source, f.target) for f in flow_graph})} arrows in {output}")


def _draw(text: str) -> str:
    """Return a graph as SVG, drawn by dot.

    Starts dot(1) for that.
    """
    if shutil.which("dot") is None:
        raise SetupError(
            "cannot draw a picture: the program dot of Graphviz is not installed",
            hint=f"{install_command('graphviz')}; or write the graph with --format "
            "dot or its arrows with --json",
        )
    with tempfile.NamedTemporaryFile("w", suffix=".dot", encoding="utf-8") as file:
        file.write(text)
        file.flush()

        async def run() -> bytes:
            return await run_tool(
                ["dot", "-Tsvg", file.name],
                deadline=_LAYOUT_SECONDS,
                output_limit=_PICTURE_BYTES,
            )

        try:
            drawn = trio.run(run).decode("utf-8")
        except UpstreamError as error:
            raise RefusedError(
                f"cannot draw the picture: {error.message}",
                hint="select arrows with --sandbox or --service, or use --format dot",
            ) from error
    # Without the document type, which names a file at w3.org: the picture is to
    # refer to nothing outside, and an SVG needs none.
    return drawn[drawn.index("<svg") :]


def _refuse_too_many(found: list[Flow]) -> None:
    """Raise RefusedError for more boxes than a picture can show."""
    boxes = {name for flow in found for name in (flow.source, flow.target)}
    if len(boxes) > tool_limits.GRAPH_NODES:
        raise RefusedError(
            f"cannot write the graph: it has {len(boxes)} boxes, more than the "
            f"allowed {tool_limits.GRAPH_NODES}",
            hint="select arrows with --sandbox or --service, or use --json",
        )


def _colours(
    known: World, world: Path | None, policy: tuple[Path, ...]
) -> dict[str, str]:
    """Return colours by sandbox: of records, or the palette's for a world's file."""
    if world is None:
        records = records_beside(policy).records
        return {name: record.viewer.label.colour for name, record in records.items()}
    palette = list(PALETTE.values())
    names = sorted(name for name in known.names if name != "dom0")
    return {name: palette[n % len(palette)] for n, name in enumerate(names)}


def _title(sandboxes: tuple[str, ...], services: tuple[str, ...]) -> str:
    title = "Permitted calls"
    if sandboxes:
        title += f" from or to {', '.join(sandboxes)}"
    if services:
        title += f": {', '.join(services)}"
    return title
