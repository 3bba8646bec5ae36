"""Programs of the guest: standard library only, each shipped as one file."""

from __future__ import annotations
