"""Vocabulary without input or output: errors, limits, names, port table.

Any process may import a module of these.  Nearly all have errors, escape, decoding,
stderr_log and the limits; a module that few processes run names them in its docstring.
"""

from __future__ import annotations
