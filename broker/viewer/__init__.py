"""The viewer part: the user, the rules and the screen."""

from __future__ import annotations
