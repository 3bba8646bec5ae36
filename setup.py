"""The one part that is not Python: the pump's hot path, optional.

Everything else stands in pyproject.toml.  Where there is no compiler or no
Python.h the package installs all the same, and the pump runs in Python.
"""

from __future__ import annotations

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "broker.relay._turns",
            ["broker/relay/_turns.c"],
            py_limited_api=True,
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
