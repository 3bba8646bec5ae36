"""Vitrail as its packages have it: the core, with some of the parts or none."""

from __future__ import annotations

import json
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from broker.core.parts.table import part_of_file
from broker.helpers.process.spawn import run_tool
from tests.kit.installed import Installed

_ROOT = Path(__file__).parents[2]


class CoreAlone(Installed):
    """An environment with the core of this checkout, divided as the packages are."""

    async def make(self) -> None:
        """Copy the core into a new environment."""
        words = (sys.executable, "-m", "venv", "--without-pip", str(self.prefix))
        await run_tool(words, env=self.env)
        # A line that names a directory: the checkout's own .pth is not read there.
        libraries = self._site / "libraries.pth"
        libraries.write_text(f"{sysconfig.get_path('purelib')}\n")
        self._copy(None)

    def with_part(self, part: str, base: Path) -> CoreAlone:
        """Copy the environment to ``base`` and add a part."""
        made = CoreAlone(base, self.env)
        # With the compiled modules, which Python finds valid by the time of their text.
        shutil.copytree(self.prefix, made.prefix, symlinks=True)
        made._copy(part)
        return made

    @property
    def _site(self) -> Path:
        python = f"python3.{sys.version_info.minor}"
        return self.prefix / "lib" / python / "site-packages"

    def _copy(self, part: str | None) -> None:
        """Copy the files of a part; None: of the core."""
        for top in ("broker", "policy", "shims"):
            for file in (_ROOT / top).rglob("*"):
                path = file.relative_to(_ROOT)
                wanted = file.is_file() and "__pycache__" not in path.parts
                if wanted and part_of_file(str(path)) == part:
                    (self._site / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, self._site / path)

    async def said(self, code: str, *words: str) -> Any:
        """Run a program with the environment's modules; return what it prints as JSON."""
        argv = [str(self.prefix / "bin" / "python"), "-c", code, *words]
        return json.loads(
            await run_tool(argv, env=self.env, cwd=self.base, deadline=120)
        )
