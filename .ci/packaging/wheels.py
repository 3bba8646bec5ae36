"""Install PyPI's wheels that requirements-release.lock names, and list their files.

pip takes from PyPI only what the release of Debian does not have.  The lock has the
versions and their hashes, so that a later build installs the same files.  The list is
an SBOM in Vitrail's metadata (PEP 770).  The release's SBOM takes the origin of each
file from it.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
LOCK = SOURCE / "requirements-release.lock"


def canonical_name(name: str) -> str:
    """Return a distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> dict[str, str]:
    """Return the lines of a lock for each distribution, with their hashes."""
    entries = re.findall(r"^[\w.-]+(?:[^\n]*\\\n)+[^\n]*$", text, re.MULTILINE)
    return {canonical_name(re.split(r"[=\[ ]", e)[0]): e for e in entries}


def install_wheels(python: Path, extras: str) -> None:
    """Install Vitrail from this tree with ``extras``, and the locked wheels it needs."""
    requirement = f"{SOURCE}[{extras}]"
    planned = _pip(python, "--dry-run", requirement)
    names = {canonical_name(item["metadata"]["name"]) for item in planned}
    lock = read_lock(LOCK.read_text())
    if missing := sorted(names - lock.keys() - {"vitrail"}):
        raise SystemExit(
            f"{LOCK.name} has no hashes of {', '.join(missing)}; docs/releases.md "
            "says how the lock is written"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        lines = [lock[name] for name in sorted(names - {"vitrail"})]
        file.write("\n".join(lines))
        file.flush()
        wheels = _pip(python, "--no-deps", "--require-hashes", "-r", file.name)
    _pip(python, "--no-deps", requirement)
    (site,) = python.parents[1].glob("lib/python3*/site-packages")
    (info,) = site.glob("vitrail-*.dist-info")
    (info / "sboms").mkdir(exist_ok=True)
    text = json.dumps(describe_wheels(site, wheels), indent=1, sort_keys=True)
    (info / "sboms/wheels.cdx.json").write_text(text + "\n")


def describe_wheels(site: Path, wheels: list[dict]) -> dict:
    """Return a CycloneDX document of installed wheels, with the paths of their files."""
    distributions = {
        canonical_name(dist.metadata["Name"]): dist
        for dist in metadata.distributions(path=[str(site)])
    }
    components = []
    for wheel in wheels:
        name, version = wheel["metadata"]["name"], wheel["metadata"]["version"]
        files = distributions[canonical_name(name)].files or []
        paths = sorted(str(path) for path in files if ".." not in path.parts)
        archive = wheel["download_info"]["archive_info"]
        digest = (
            archive.get("hashes", {}).get("sha256") or archive["hash"].split("=")[1]
        )
        components.append(
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{canonical_name(name)}@{version}",
                "purl": f"pkg:pypi/{canonical_name(name)}@{version}",
                "name": name,
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": digest}],
                "properties": [
                    {
                        "name": "vitrail:wheel",
                        "value": wheel["download_info"]["url"].rpartition("/")[2],
                    }
                ],
                "components": [{"type": "file", "name": path} for path in paths],
            }
        )
    components.sort(key=lambda component: component["bom-ref"])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "components": components,
    }


def _pip(python: Path, *arguments: str) -> list[dict]:
    """Run 'pip install' and return what it installed, or would install."""
    with tempfile.NamedTemporaryFile() as report:
        argv = [python, "-m", "pip", "-q", "install", "--no-compile"]
        subprocess.run([*argv, "--report", report.name, *arguments], check=True)
        return json.loads(Path(report.name).read_text() or "{}").get("install", [])
