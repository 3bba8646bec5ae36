"""``brokerctl policy graph``: a picture of who may do what."""

from __future__ import annotations

import sys
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.policy.load import JSON, POLICY, WORLD, records_of, rules_of, world_from
from broker.cli.policy.records import print_problems
from broker.core.errors import RefusedError
from broker.core.escape import printable
from policy import limits
from policy.errors import did_you_mean
from policy.records.record_schema import PALETTE
from policy.rules.world import World
from policy.tools.diff import TooManyError
from policy.tools.flows import Flow, flows
from policy.tools.graph import draw

_BROKEN = 3


@click.command()
@POLICY
@WORLD
@click.option(
    "--sandbox", "sandboxes", multiple=True, help="Only arrows from or to this one."
)
@click.option(
    "--service",
    "services",
    multiple=True,
    help="Only this service, as vitrail.OpenURL.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write the picture, instead of standard output.",
)
@JSON
def graph(
    *,
    policy: tuple[Path, ...],
    world: Path | None,
    sandboxes: tuple[str, ...],
    services: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw who may do what to whom as SVG, in the colours of the labels.

    An arrow is solid where something is allowed, dashed where all of it is
    asked about; its number leads to the list below the picture.  Denied calls have no
    arrow.  With --json the arrows as a list.

    Exit code: 0, 1 no such sandbox or too much for one picture, 3 the rules
    have an error.
    """
    rules, known = rules_of(policy, alone=True), world_from(world)
    if rules.problems:
        print_problems(rules.problems, stderr=True)
        sys.exit(_BROKEN)
    for name in sandboxes:
        if name not in known.domains:
            raise RefusedError(
                f"no sandbox is named '{printable(name, 60)}'",
                hint=did_you_mean(name, known.names)
                or "a record or --world names them",
            )
    try:
        found = flows(rules, known, sandboxes=sandboxes, services=services)
    except TooManyError as error:
        raise RefusedError(
            f"these rules distinguish too many calls: {error}",
            hint="look at it with a smaller --world",
        ) from error
    if as_json:
        render.json_line({"flows": [flow._asdict() for flow in found]})
        return
    _refuse_too_many(found)
    picture = draw(found, known, _colours(known, world), _title(sandboxes, services))
    if output is None:
        sys.stdout.write(picture)
        return
    try:
        output.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise RefusedError(
            f"{output} cannot be written: {error.strerror}", hint="name another file"
        ) from error
    render.note(f"{len({(f.source, f.target) for f in found})} arrows in {output}")


def _refuse_too_many(found: list[Flow]) -> None:
    boxes = {name for flow in found for name in (flow.source, flow.target)}
    if len(boxes) > limits.GRAPH_NODES:
        raise RefusedError(
            f"{len(boxes)} boxes, and a picture has at most {limits.GRAPH_NODES}",
            hint="name some with --sandbox or --service, or take --json",
        )


def _colours(known: World, world: Path | None) -> dict[str, str]:
    """Those of the records; in a world from a file, the palette's in turn."""
    if world is None:
        records = records_of(()).records
        return {name: record.viewer.label.colour for name, record in records.items()}
    palette = list(PALETTE.values())
    names = sorted(name for name in known.names if name != "dom0")
    return {name: palette[n % len(palette)] for n, name in enumerate(names)}


def _title(sandboxes: tuple[str, ...], services: tuple[str, ...]) -> str:
    title = "Who may do what"
    if sandboxes:
        title += f" from or to {', '.join(sandboxes)}"
    if services:
        title += f": {', '.join(services)}"
    return title
