"""``brokerctl device``: USB devices, their rules and where they are attached."""

from __future__ import annotations

import json
import sys
from typing import BinaryIO

import rich_click as click

from policy import limits
from policy.rules.device_json import answer_line


@click.group("device")
def command() -> None:
    """USB devices: which rules they match and which sandbox has them."""


@command.command()
@click.option("--batch", is_flag=True, help="Rules and devices as JSON lines.")
@click.argument("line", required=False)
def match(line: str | None, *, batch: bool) -> None:
    """Say whether a rule's device conditions match a device.

    LINE is {"rule": {...}, "device": {...}}; with --batch, each line of
    standard input is one.  The answer is {"match": true} or {"match": false}.
    A malformed line is answered by {"match": false, "error": ..., "place": ...}.

    Exit code: 0 a match (with --batch: every line was understood), 1 otherwise.
    """
    if batch == (line is not None):
        raise click.UsageError("give one LINE, or --batch and lines on standard input")
    if batch:
        sys.exit(_batch(sys.stdin.buffer))
    answer = answer_line((line or "").encode("utf-8", "surrogateescape"))
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.exit(0 if answer["match"] else 1)


def _batch(lines: BinaryIO) -> int:
    """Answer each line, bad ones too, in order; 1 when one was not understood."""
    code = 0
    while line := lines.readline(limits.DEVICE_LINE_BYTES + 2):
        if len(line) > limits.DEVICE_LINE_BYTES + 1 and not line.endswith(b"\n"):
            _skip(lines)
        answer = answer_line(line.removesuffix(b"\n"))
        if "error" in answer:
            code = 1
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return code


def _skip(lines: BinaryIO) -> None:
    """Pass over the rest of a line without holding it."""
    while (rest := lines.readline(65536)) and not rest.endswith(b"\n"):
        pass
