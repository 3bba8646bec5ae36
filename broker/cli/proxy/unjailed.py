"""The option of ``brokerctl proxy`` for a machine without user namespaces."""

from __future__ import annotations

import rich_click as click

unjailed_option = click.option(
    "--allow-unjailed-workers",
    "allow_unjailed",
    is_flag=True,
    help="Also run on a machine that cannot build the filter's jail.",
)
