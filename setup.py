"""The parts that are not Python, both optional.

Everything else stands in pyproject.toml.  Where there is no compiler or no
Python.h the package installs all the same: the pump runs in Python, and
vhost-device-vsock as it is.
"""

from __future__ import annotations

from setuptools import Extension, setup


def part(name: str) -> Extension:
    """A file in C beside the modules of its room."""
    return Extension(
        f"broker.{name}",
        [f"broker/{name.replace('.', '/')}.c"],
        py_limited_api=True,
        extra_compile_args=["-O2", "-Wall", "-Wextra"],
        optional=True,
    )


setup(
    ext_modules=[
        part("relay._turns"),
        # Not a module: it is loaded into another program (launch/microvm/vsock_backend.py).
        part("launch.microvm._fairpoll"),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
