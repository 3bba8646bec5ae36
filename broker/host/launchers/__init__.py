"""One folder for each launch kind."""

from __future__ import annotations
