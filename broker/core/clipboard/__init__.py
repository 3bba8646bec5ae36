"""Types of contents and keys of pastes, that viewer and worker both name."""

from __future__ import annotations
