"""What a launch gets of this machine's files: ``host_files`` reads them, in a process."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import TypeAlias

import msgspec

from broker.core import limits
from broker.core.errors import SetupError
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import run_tool
from broker.helpers.tools import profiles

_Answer: TypeAlias = dict[str, str] | tuple[str, str, str]


async def host_settings(wanted: Collection[str]) -> dict[str, str]:
    """Build a record's ``launch.host_files`` in a jailed tool; return constants.

    Raises SetupError when this machine has no such files, UpstreamError when they
    cannot be read.
    """
    if not wanted:
        return {}
    # As base64, and compressed at the best.
    argv = our_program(*profiles.HOST_FILES.start, *wanted)
    most = 2 * limits.HOST_FILES_BYTES
    found = await run_tool(argv, name="launch.host_files", output_limit=most)
    answer: _Answer = msgspec.json.decode(found, type=_Answer)
    if isinstance(answer, dict):
        return answer
    message, hint, where = answer
    raise SetupError(message, hint=hint, where=where)


def fingerprint(settings: Mapping[str, str]) -> str:
    """Return a short text that is another one for other files; "" for none."""
    whole = msgspec.json.encode(settings, order="sorted")
    return hashlib.sha256(whole).hexdigest() if settings else ""
