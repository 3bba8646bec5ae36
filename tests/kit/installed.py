"""Vitrail as a person has it who installed it: a wheel in a separate environment.

The libraries are those that the tests have; Vitrail itself is the installed one, not
the checkout.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import trio

from broker import __version__
from broker.helpers.process.spawn import PIPE, run_tool, spawn
from tests.kit.brokerctl import Answer, _drain

_ROOT = Path(__file__).parents[2]
_SOURCES = ("broker", "policy", "shims", "pyproject.toml", "setup.py", "README.md")


class Installed:
    """An environment below ``base`` and its ``brokerctl``."""

    def __init__(self, base: Path, env: dict[str, str]) -> None:
        self.base = base
        self.env = {k: v for k, v in env.items() if k != "PYTHONPATH"}
        self.prefix = base / "vitrail"
        self.brokerctl = self.prefix / "bin" / "brokerctl"

    async def install(self, version: str) -> None:
        """Build a wheel of this version and install it, over an older one too."""
        source = self.base / "source"
        wheels = self.base / "wheels"
        for name in _SOURCES:
            _copy(_ROOT / name, source / name)
        for name in ("pyproject.toml", "broker/__init__.py"):
            file = source / name
            text = file.read_text().replace(f'"{__version__}"', f'"{version}"', 1)
            file.write_text(text)
        await self._python(
            *("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
            *("--no-index", "-w", str(wheels), str(source)),
        )
        if not self.prefix.exists():
            await self._python("-m", "venv", "--without-pip", str(self.prefix))
            libraries = sysconfig.get_path("purelib")
            here = f"lib/python3.{sys.version_info.minor}/site-packages/libraries.pth"
            (self.prefix / here).write_text(f"{libraries}\n")
        (wheel,) = wheels.glob(f"vitrail-{version}-*.whl")
        await self._python(
            *("-m", "pip", "--python", str(self.prefix / "bin" / "python")),
            *("install", "-q", "--no-deps", "--no-index", "--upgrade", str(wheel)),
        )
        shutil.rmtree(source)

    async def _python(self, *words: str) -> None:
        env = {**self.env, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        await run_tool([sys.executable, *words], env=env, deadline=300)

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.prefix)

    def start(self, *words: str, **streams: object):
        """A process of brokerctl, begun in the person's home."""
        streams.setdefault("stderr", PIPE)
        argv = [str(self.prefix / "bin" / "python"), "-c", _IN_HOME, *words]
        return spawn(argv, env=self.env, **streams)

    async def run(self, *words: str, deadline: float = 120) -> Answer:
        """Run it to its end."""
        child = self.start(*words, stdout=PIPE)
        out, err = bytearray(), bytearray()
        try:
            with trio.fail_after(deadline):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_drain, child.popen.stdout, out)
                    nursery.start_soon(_drain, child.popen.stderr, err)
                code = await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
            child.popen.stdout.close()
            child.popen.stderr.close()
        return Answer(code, out.decode(), err.decode())


# SIGINT is ignored in what a shell started in the background; 'python -c' puts the
# working directory first, where the checkout is.
_IN_HOME = (
    "import os, signal, sys; os.chdir(os.environ['HOME']); "
    "sys.path.remove(''); signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from broker.cli.app import main; sys.exit(main())"
)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
