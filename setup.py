"""The parts that are not Python, those in C optional.

Everything else stands in pyproject.toml.  Where there is no compiler or no
Python.h the package installs all the same: the pump runs in Python,
vhost-device-vsock as it is, no machine shares its parent's memory, and no sandbox
reaches the machine's network.
"""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

PROGRAMS = {"broker.host.vmm._portmux", "shims.minimal._agent"}
"""Parts that are started, and not loaded by Python."""


class Build(build_ext):
    """Links a part of ``PROGRAMS`` as an executable, under the name of a module."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link one part."""
        if ext.name not in PROGRAMS:
            super().build_extension(ext)
            return
        objects = self.compiler.compile(
            ext.sources,
            output_dir=self.build_temp,
            extra_postargs=ext.extra_compile_args,
        )
        target = Path(self.get_ext_fullpath(ext.name))
        self.compiler.link_executable(
            objects,
            target.name,
            output_dir=str(target.parent),
            extra_postargs=ext.extra_link_args,
        )


class WithTexts(build_py):
    """Adds the manual pages' text, and the compiled catalogues of translations.

    'brokerctl man' shows a page if its package is not installed.
    """

    def run(self) -> None:
        """Build, copy the pages, and compile the catalogues."""
        super().run()
        if self.editable_mode:
            return
        data = Path(self.build_lib) / "broker" / "data"
        (data / "man").mkdir(parents=True, exist_ok=True)
        for page in Path("docs").glob("*.1.md"):
            self.copy_file(str(page), str(data / "man" / page.name))
        # Alone: the package's modules need what is not installed while it is built.
        compiled = runpy.run_path("broker/core/language/po_file.py")["compiled"]
        for source in (data / "locale").glob("*/*.po"):
            text = source.read_text(encoding="utf-8")
            source.with_suffix(".mo").write_bytes(compiled(text))
            source.unlink()


PROGRAM = """\
#!/bin/sh
'''exec' "$(command -p dirname -- "$(command -p readlink -f -- "$0")")/python3" -I "$0" "$@"
' '''
import sys

from {module} import {function}

sys.exit({function}())
"""
"""sh starts the Python of the same environment with -I: it imports nothing of
PYTHONPATH, whose empty entry is the working directory."""


def write_programs() -> list[str]:
    """Write the programs of pyproject.toml; return their paths."""
    table = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["vitrail"]
    folder = Path("build/programs")
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in table["programs"].items():
        module, _, function = entry.partition(":")
        text = PROGRAM.format(module=module, function=function)
        (folder / name).write_text(text)
    return [str(folder / name) for name in table["programs"]]


REPRODUCIBLE = f"-ffile-prefix-map={Path.cwd()}=."
"""Keeps the build's directory out of debug information, and so out of the files."""


def part(name: str) -> Extension:
    """A file in C beside the modules of its room."""
    return Extension(
        f"broker.{name}",
        [f"broker/{name.replace('.', '/')}.c"],
        py_limited_api=True,
        extra_compile_args=["-O2", "-Wall", "-Wextra", REPRODUCIBLE],
        optional=True,
    )


setup(
    ext_modules=[
        part("helpers.pump._turns"),
        # Not a module: it is loaded into another program (host/vmm/vsock_backend.py).
        part("host.vmm._fairpoll"),
        # As that one: it is loaded into passt (host/network/confined_passt.py).
        part("host.network._kernelports"),
        # A program: see broker/host/vmm/port_mux.py.
        part("host.vmm._portmux"),
        # A program without libc, for guests: see shims/minimal.
        Extension(
            "shims.minimal._agent",
            ["shims/minimal/agent.c"],
            py_limited_api=True,
            extra_compile_args=[
                *("-Os", "-Wall", "-Wextra", "-ffreestanding", "-fno-stack-protector"),
                *("-fno-pic", "-fno-asynchronous-unwind-tables", REPRODUCIBLE),
            ],
            extra_link_args=["-static", "-nostdlib", "-no-pie", "-s"],
            optional=True,
        ),
    ],
    scripts=write_programs(),
    cmdclass={"build_ext": Build, "build_py": WithTexts},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
