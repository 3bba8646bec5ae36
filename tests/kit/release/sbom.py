"""Print a release's SBOM: CycloneDX 1.6, with the origin of every file of every package.

``python -m tests.kit.release.sbom DIRECTORY VERSION EPOCH COMMIT`` reads the packages in
DIRECTORY.  A file is one of the sources (by its content), a file of a PyPI wheel (by the list that the
build wrote into the package), or generated (by ``GENERATED``, which names the sources).
A file of another origin is an error: nothing comes into a release unnoticed.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.kit.release.archives import missing_program, read_archive, read_tar

ROOT = Path(__file__).parents[3]
SITE = re.compile(r"^(?:.*/)?(?:site|dist)-packages/")
WHEELS = "*/sboms/wheels.cdx.json"
# Patterns of paths below site-packages or in the package, and what the file is made from.
GENERATED = {
    "broker/*.so": "broker/*.c by setup.py and the C compiler",
    "shims/minimal/_agent*.so": "shims/minimal/agent.c by setup.py and the C compiler",
    "broker/data/locale/*.mo": "broker/data/locale/*.po by setup.py",
    "broker/data/verbs*": "the modules of broker/cli by debian/load_verbs.py",
    "*.pyc": "the .py file beside it by compileall",
    "vitrail-*.dist-info/*": "pyproject.toml by setuptools",
    "vitrail-*.data/scripts/*": "pyproject.toml by setup.py",
    "debian.pth": "the build of the Debian packages",
    "PKG-INFO": "pyproject.toml by setuptools",
    "usr/lib/vitrail/bin/*": "pyproject.toml by the build of the packages",
    "usr/lib/vitrail/pyvenv.cfg": "the build of the packages",
    "usr/lib/systemd/*": "broker/data/systemd",
    "lib/systemd/*": "broker/data/systemd",
    "usr/lib/sysusers.d/*": "debian/vitrail.sysusers",
    "usr/lib/tmpfiles.d/*": "debian/vitrail.tmpfiles",
    "usr/lib/extension-release.d/*": "the build of the systemd-sysext image",
    "vitrail.spec": "the build of the rpm packages",
    "vitrail-*-wheels.tar": "PyPI's wheels of requirements-release.lock",
    "vitrail-*.tar.gz": "the commit's tree",
    "usr/share/bash-completion/*": "the modules of broker/cli",
    "usr/share/fish/*": "the modules of broker/cli",
    "usr/share/zsh/*": "the modules of broker/cli",
    "usr/share/man/*": "docs by docs/print_man.py and lowdown",
    "man/*": "docs by docs/print_man.py and lowdown",
    "usr/share/lintian/overrides/*": "debian/*.lintian-overrides",
    "usr/share/doc/*/changelog*": "CHANGELOG.md and debian/changelog",
}


def hash_content(content: bytes) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()


def source_hashes(commit: str) -> dict[str, str]:
    """Return the paths of all files of a commit, by their SHA-256."""
    argv = ["git", "archive", "--format=tar", commit]
    tree = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True).stdout
    return {hash_content(content): path for path, content in read_tar(tree)}


def wheel_components(files: Mapping[str, bytes]) -> list[dict]:
    """Return the components of PyPI that a package lists, with the names of their files."""
    lists = [
        content for path, content in files.items() if fnmatch.fnmatch(path, WHEELS)
    ]
    return [part for content in lists for part in json.loads(content)["components"]]


def find_origin(
    path: str, content: bytes, sources: Mapping[str, str], wheels: Mapping[str, str]
) -> tuple[str, str] | None:
    """Return the kind of a file's origin, and the origin; None if it is unknown."""
    if content.startswith(b"-> "):
        return "link", content[3:].decode()
    inside = SITE.sub("", path)
    # Before the sources: an empty file or a licence may be the same in both.
    if inside in wheels and inside != path:
        return "wheel", wheels[inside]
    # A package may have compressed a page or a changelog of the sources.
    unpacked = gzip.decompress(content) if path.endswith(".gz") else content
    for variant in (content, unpacked):
        if source := sources.get(hash_content(variant)):
            return "source", source
    for pattern, made_from in GENERATED.items():
        if fnmatch.fnmatchcase(inside, pattern):
            return "generated", made_from
    return None


def describe_package(
    name: str, files: Mapping[str, bytes], sources: Mapping[str, str]
) -> tuple[dict, list[dict]]:
    """Return the component of a package, and those of PyPI in it.

    Raises LookupError with all files of an unknown origin.
    """
    libraries = wheel_components(files)
    wheels = {
        file["name"]: library["bom-ref"]
        for library in libraries
        for file in library["components"]
    }
    parts, unknown = [], []
    for path in sorted(files):
        origin = find_origin(path, files[path], sources, wheels)
        if origin is None:
            unknown.append(path)
            continue
        kind, value = origin
        parts.append(
            {
                "type": "file",
                "name": path,
                "hashes": [{"alg": "SHA-256", "content": hash_content(files[path])}],
                "properties": [{"name": f"vitrail:{kind}", "value": value}],
            }
        )
    if unknown:
        raise LookupError(f"{name}: files of unknown origin: {', '.join(unknown)}")
    component = {"type": "file", "bom-ref": name, "name": name, "components": parts}
    return component, [{**library, "components": []} for library in libraries]


def describe_release(
    packages: Iterable[tuple[str, bytes, Mapping[str, bytes]]],
    sources: Mapping[str, str],
    version: str,
    epoch: int,
) -> dict:
    """Return the document of a release: name, content and files of each package."""
    components, libraries, contents = [], {}, []
    for name, content, files in packages:
        component, wheels = describe_package(name, files, sources)
        digest = {"alg": "SHA-256", "content": hash_content(content)}
        components.append({**component, "hashes": [digest]})
        libraries |= {wheel["bom-ref"]: wheel for wheel in wheels}
        contents.append(
            {"ref": name, "dependsOn": sorted(wheel["bom-ref"] for wheel in wheels)}
        )
    time = dt.datetime.fromtimestamp(epoch, dt.UTC)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": "vitrail",
                "name": "vitrail",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
        },
        "components": [*components, *(libraries[ref] for ref in sorted(libraries))],
        "dependencies": [
            {"ref": "vitrail", "dependsOn": [part["bom-ref"] for part in components]},
            *contents,
        ],
    }


def main(folder: Path, version: str, epoch: int, commit: str) -> int:
    """Print the SBOM of the packages in a directory."""
    packages = []
    for path in sorted(folder.iterdir()):
        if program := missing_program(path):
            sys.stderr.write(f"sbom: {path.name}: {program} is not installed\n")
            return 1
        files = dict(read_archive(path))
        if path.name.endswith(".tar.gz"):
            files = {name.partition("/")[2]: content for name, content in files.items()}
        packages.append((path.name, path.read_bytes(), files))
    try:
        document = describe_release(packages, source_hashes(commit), version, epoch)
    except LookupError as error:
        sys.stderr.write(f"sbom: {error.args[0]}\n")
        return 1
    json.dump(document, sys.stdout, indent=1, sort_keys=True)
    print()
    return 0


if __name__ == "__main__":
    folder, version, epoch, commit = sys.argv[1:]
    sys.exit(main(Path(folder), version, int(epoch), commit))
