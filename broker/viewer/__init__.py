"""The viewer part: the person, the rules and the screen."""

from __future__ import annotations
