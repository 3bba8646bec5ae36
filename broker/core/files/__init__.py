"""Files: replaced whole, trees that are removed, logs that stay short."""

from __future__ import annotations
