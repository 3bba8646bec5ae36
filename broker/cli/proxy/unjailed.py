"""Options that verbs of ``brokerctl proxy`` share."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from broker.cli.transfer.named_path import NamedPath

unjailed_option = click.option(
    "--allow-unjailed-workers",
    "allow_unjailed",
    is_flag=True,
    help="Also run on a machine that cannot build the filter's jail.",
)

listen_option = click.option(
    "--listen",
    required=True,
    type=NamedPath(path_type=Path),
    help="Socket to create, whose clients are filtered.",
)
