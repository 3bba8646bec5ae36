"""Count what a call between two processes is written in, by hand, today.

Each count falls as calls become rows that one class serves; none may grow meanwhile.
"""

from __future__ import annotations

import ast
import re
from collections import Counter

from docs.tables.imports import size_of_text
from docs.tables.processes import PROGRAMS
from tests.kit.ratchets.tree import tracked_files

ARMS = "case arms of messages"
STUBS = "stubs of a call number"
PERMITS = "permits that a session child's order checks by hand"
NO_MEMORY = "modules that handle ENOMEM"
HOST_IMPORTS = "imports of the host by brokerctl"
CALL_LINES = "lines of code of modules with an arm or stub"
PROGRAM_KINDS = "kinds of process"
_ARM = re.compile(r"case (m|p|messages)\.")
_STUB = re.compile(r"lambda n: \w+\.\w+\(n")
_PERMIT = re.compile(r"check\.permit\(")
_HOST_IMPORT = re.compile(r"^\s*(from|import) broker\.host\b", re.MULTILINE)


def measure_calls() -> dict[str, int]:
    """Return each count for the product as it is in this checkout."""
    counts: Counter[str] = Counter(
        dict.fromkeys((ARMS, STUBS, PERMITS, NO_MEMORY, HOST_IMPORTS, CALL_LINES), 0)
    )
    for name, text in tracked_files(".py"):
        if not name.startswith("broker/"):
            continue
        arms, stubs = len(_ARM.findall(text)), len(_STUB.findall(text))
        counts[ARMS] += arms
        counts[STUBS] += stubs
        counts[NO_MEMORY] += "ENOMEM" in text
        if arms or stubs:
            counts[CALL_LINES] += size_of_text(text, ast.parse(text)).code
        if name.startswith("broker/session/"):
            counts[PERMITS] += len(_PERMIT.findall(text))
        if name.startswith("broker/cli/"):
            counts[HOST_IMPORTS] += len(_HOST_IMPORT.findall(text))
    counts[PROGRAM_KINDS] = sum(program.is_kind for program in PROGRAMS)
    return dict(counts)
