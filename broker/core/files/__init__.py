"""Files: replaced whole, trees that are removed, logs that stay short, links refused."""

from __future__ import annotations
