"""``brokerctl open``: what may be opened, without opening it (``--check``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

import rich_click as click

from broker.cli import render
from broker.core import limits
from broker.transfer.check import check_line, check_name, check_url
from broker.transfer.urls import DEFAULT_SCHEMES


@click.command("open")
@click.argument("objects", nargs=-1, metavar="[URL|NAME]…")
@click.option(
    "--check",
    is_flag=True,
    required=True,
    help="Print what would be accepted, without any effect.",
)
@click.option("--batch", is_flag=True, help="Read questions, one a line, as JSON.")
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    help="Accept this scheme instead of https, http and mailto; may be repeated.",
)
def command(
    objects: tuple[str, ...], *, check: bool, batch: bool, schemes: tuple[str, ...]
) -> None:
    """Say which addresses and file names would be accepted, and why not.

    Prints one JSON object a line.  With --batch the questions come on standard
    input, one JSON object a line: {"kind": "url", "text": "https://…"} or
    {"kind": "name", "bytes_hex": "…"}.

    Exit code: 0, or 1 when an argument would be refused; --batch always 0.
    """
    del check  # until there is something else to do, it must be given
    allowed = frozenset(scheme.lower() for scheme in schemes) or DEFAULT_SCHEMES
    if batch == bool(objects):
        raise click.UsageError("Give addresses and names, or --batch.")
    if batch:
        for untrusted_line in _lines(sys.stdin.buffer):
            render.json_line(check_line(untrusted_line, allowed))
        return
    answers = [_check(untrusted_text, allowed) for untrusted_text in objects]
    for answer in answers:
        render.json_line(answer)
    if not all(answer["ok"] for answer in answers):
        sys.exit(1)


def _check(untrusted_text: str, schemes: frozenset[str]) -> dict[str, object]:
    """An argument with a colon is an address, any other a file name."""
    if ":" in untrusted_text:
        return check_url(untrusted_text, schemes)
    return check_name(untrusted_text.encode("utf-8", "surrogateescape"))


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of one that is too long its beginning, longer than allowed."""
    limit = limits.CHECK_LINE_BYTES
    while line := stream.readline(limit + 2):
        yield line.removesuffix(b"\n")
        while len(line) == limit + 2 and not line.endswith(b"\n"):
            line = stream.readline(limit + 2)
