"""Which signed bundles were applied to the configuration: names and versions.

``brokerctl policy bundle apply`` records each in ``.bundles/NAME.json`` beside policy.d.

brokerctl writes the files, the authority reads them when it loads the rules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from policy import limits
from policy.errors import Problem
from policy.files import read_file

FOLDER = ".bundles"
_BUNDLES = 8


def applied_bundles(config: Sequence[Path]) -> str:
    """Return the applied bundles as ``acme 42, site 7``; empty: none.

    One whose record cannot be read has the version ``?``.
    """
    found: list[str] = []
    for base in config:
        for file in sorted((base / FOLDER).glob("[a-z]*.json"))[:_BUNDLES]:
            content = read_file(file, check_owner=True, most=limits.BUNDLE_BYTES)
            version: object = "?"
            if not isinstance(content, Problem):
                try:
                    version = int(json.loads(content)["version"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    version = "?"
            found.append(f"{file.stem} {version}")
    return ", ".join(found[:_BUNDLES])
