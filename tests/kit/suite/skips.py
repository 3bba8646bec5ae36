"""Which tests may be skipped in CI: a lost capability would hide a lost boundary."""

from __future__ import annotations

from pathlib import Path

LIST = Path(__file__).parents[2] / "may_skip.txt"
NO_TIME = "no time is left in this run"
_ELSEWHERE = (NO_TIME, "make mutate", "root's half of this file", "for root alone")
"""Reasons that say nothing about the machine: another command of CI runs those tests."""


def _read(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {
        name: reason for name, _, reason in (line.partition("  ") for line in lines)
    }


ALLOWED = _read(LIST.read_text())
"""Reasons, by the names of tests or files."""


def unlisted_skip(nodeid: str, report) -> str:
    """Return why the skip of a test fails in CI; empty where it is allowed."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return ""
    reason = str(report.longrepr)
    name = nodeid.partition("[")[0]
    if name in ALLOWED or name.partition("::")[0] in ALLOWED:
        return ""
    if any(phrase in reason for phrase in _ELSEWHERE):
        return ""
    return (
        f"{nodeid} was skipped in CI: {reason}\n"
        "give the machine what it lacks, or add the test and the reason to "
        "tests/may_skip.txt"
    )
