"""Vitrail as a Debian package in a root of the test's own, that dpkg upgrades in place.

The package has the modules alone, and needs no rights to be unpacked; dpkg replaces each
file by rename, as it does below /usr.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from broker import __version__

ROOT = Path(__file__).parents[2]
OLD, NEW = __version__, "99.0"
_PARTS = ("broker", "policy", "shims", "docs")
_SITE = "usr/lib/vitrail/site"
_CONTROL = """\
Package: vitrail
Version: {version}
Architecture: all
Maintainer: a test <test@localhost>
Description: Vitrail's modules
"""


def lacks_dpkg() -> str:
    """Return what it needs and this machine has not."""
    return "" if shutil.which("dpkg") else "dpkg is not installed"


class InstalledPackage:
    """An installation of the package ``OLD`` below a directory."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._root = base / "root"
        for name in ("info", "updates"):
            (self._root / "var/lib/dpkg" / name).mkdir(parents=True)
        (self._root / "var/lib/dpkg/status").touch()
        self.version = OLD
        for number, version in enumerate((OLD, NEW)):
            self._build(version, number)
        self.unpack(OLD)

    @property
    def environ(self) -> dict[str, str]:
        """Variables by which 'import broker' finds it, and not the checkout."""
        return {"PYTHONPATH": str(self._root / _SITE), "PYTHONSAFEPATH": "1"}

    def _build(self, version: str, number: int) -> None:
        tree = self._base / "tree"
        site = tree / _SITE
        for name in _PARTS:
            ignored = shutil.ignore_patterns("__pycache__", "*.md", "pictures")
            shutil.copytree(ROOT / name, site / name, ignore=ignored)
        module = site / "broker/__init__.py"
        text = module.read_text()
        assert f'"{OLD}"' in text
        module.write_text(text.replace(f'"{OLD}"', f'"{version}"'))
        # A compiled module is known by the time and size of its source.  The old one is
        # made older, because dpkg-deb clamps what is newer than its own begin.
        now = module.stat().st_mtime - 10 * (1 - number)
        os.utime(module, (now, now))
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(_CONTROL.format(version=version))
        words = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree)]
        subprocess.run([*words, str(self._deb(version))], check=True)
        shutil.rmtree(tree)

    def _deb(self, version: str) -> Path:
        return self._base / f"vitrail_{version}.deb"

    def unpack(self, version: str) -> None:
        """Have dpkg replace what is installed."""
        forced = "not-root,bad-path,unsafe-io,downgrade"
        words = ["dpkg", f"--root={self._root}", f"--force-{forced}", "--unpack"]
        done = subprocess.run(
            [*words, str(self._deb(version))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        self.version = version


if __name__ == "__main__":
    print(InstalledPackage(Path(sys.argv[1])).environ)
