"""libseccomp's Python binding, under either of its two names.

Debian packages upstream's own binding (``python3-seccomp``, module ``seccomp``);
PyPI has ``pyseccomp``, which does the same by ctypes.  Both have the classes and
constants that are used here; they differ in the exceptions they raise, so catch
``ERRORS``.

Importing this module raises ImportError, OSError or RuntimeError where neither
binding, or not the library itself, is there.
"""

from __future__ import annotations

import importlib
from typing import Any


def _binding() -> Any:  # noqa: ANN401 (neither binding has types)
    # Upstream's first: where a distribution has it, its updates come with the
    # library's own.
    try:
        return importlib.import_module("seccomp")
    except ImportError:
        return importlib.import_module("pyseccomp")


seccomp = _binding()

ERRORS = (OSError, ValueError, RuntimeError)
"""Exceptions of a rule that the library refuses, in one binding or the other."""
