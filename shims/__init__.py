"""Programs of guests, hooks of launchers and an auditor's tool, one file each.

They use Python's standard library only.
"""

from __future__ import annotations
