"""Problems and findings as SARIF 2.1.0, for editors and CI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from policy.errors import Problem


class LintFinding(NamedTuple):
    """A problem with the name of the check that found it, and its weight."""

    check: str
    level: str
    problem: Problem


_NOTHING: Mapping[str, tuple[str, str]] = MappingProxyType({})


def sarif(
    findings: Iterable[LintFinding],
    version: str,
    known: Mapping[str, tuple[str, str]] = _NOTHING,
) -> dict[str, object]:
    """Return one run with all findings; columns count characters.

    ``known`` has the sentence of each check.
    """
    found = list(findings)
    checks = sorted({finding.check for finding in found})
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "brokerctl policy",
                        "version": version,
                        "rules": [
                            {
                                "id": check,
                                "shortDescription": {
                                    "text": known.get(check, ("", check))[1]
                                },
                            }
                            for check in checks
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding) for finding in found],
            }
        ],
    }


def _result(finding: LintFinding) -> dict[str, object]:
    """Convert one finding to a SARIF result."""
    problem = finding.problem
    parts = [problem.message]
    if problem.expected:
        parts.append(f"expected: {problem.expected}")
    if problem.hint:
        parts.append(f"hint: {problem.hint}")
    return {
        "ruleId": finding.check,
        "level": finding.level,
        "message": {"text": "; ".join(parts)},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": problem.file},
                    "region": {
                        "startLine": problem.span.line,
                        "startColumn": problem.span.column,
                        "endLine": problem.span.end_line,
                        "endColumn": problem.span.end_column,
                    },
                }
            }
        ],
    }
