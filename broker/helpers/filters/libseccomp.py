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

_LIBRARIES = {"c": "libc.so.6", "seccomp": "libseccomp.so.2"}


def _binding() -> Any:  # noqa: ANN401 (neither binding has types)
    # Upstream's first: where a distribution has it, its updates come with the
    # library's own.
    try:
        return importlib.import_module("seccomp")
    except ImportError:
        return _pyseccomp()


def _known(name: str) -> str | None:
    return _LIBRARIES.get(name)


def _pyseccomp() -> Any:  # noqa: ANN401 (as above)
    # Late: upstream's binding does not need it.
    from ctypes import util

    find_library = util.find_library
    # It would run ldconfig(8) twice to find libraries whose names are known.
    util.find_library = _known
    try:
        return importlib.import_module("pyseccomp")
    finally:
        util.find_library = find_library


seccomp = _binding()

ERRORS = (OSError, ValueError, RuntimeError)
"""Exceptions of a rule that the library refuses, in one binding or the other."""
