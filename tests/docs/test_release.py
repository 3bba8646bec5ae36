"""Steps of ``make release``: reproducible archives, the SBOM, the notes, the lock."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.kit.release.archives import read_archive, write_archive
from tests.kit.release.notes import extract_section
from tests.kit.release.sbom import describe_package, describe_release, hash_content

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPILED = [*(ROOT / "broker").rglob("*.c"), *(ROOT / "shims").rglob("*.c")]
WHEELS = runpy.run_path(str(ROOT / ".ci/packaging/wheels.py"))
SITE = "usr/lib/vitrail/lib/python3.11/site-packages"
LISTED = json.dumps(
    {
        "components": [
            {
                "type": "library",
                "bom-ref": "pkg:pypi/click@8.5.1",
                "name": "click",
                "version": "8.5.1",
                "hashes": [{"alg": "SHA-256", "content": "0" * 64}],
                "components": [{"type": "file", "name": "click/core.py"}],
            }
        ]
    }
).encode()
FILES = {
    f"{SITE}/broker/a.py": b"source",
    f"{SITE}/broker/helpers/pump/_turns.abi3.so": b"compiled",
    f"{SITE}/click/core.py": b"library",
    f"{SITE}/vitrail-0.2.0.dist-info/sboms/wheels.cdx.json": LISTED,
    "usr/bin/brokerctl": b"-> ../lib/vitrail/bin/brokerctl",
}
SOURCES = {hash_content(b"source"): "broker/a.py"}


def _origins(component):
    return {
        file["name"].removeprefix(f"{SITE}/"): (prop["name"], prop["value"])
        for file in component["components"]
        for prop in file["properties"]
    }


def test_each_file_of_a_package_has_its_origin():
    component, libraries = describe_package("vitrail.deb", FILES, SOURCES)
    origins = _origins(component)
    assert origins["broker/a.py"] == ("vitrail:source", "broker/a.py")
    assert origins["click/core.py"] == ("vitrail:wheel", "pkg:pypi/click@8.5.1")
    assert origins["broker/helpers/pump/_turns.abi3.so"][0] == "vitrail:generated"
    assert origins["usr/bin/brokerctl"][0] == "vitrail:link"
    assert [library["bom-ref"] for library in libraries] == ["pkg:pypi/click@8.5.1"]


@pytest.mark.parametrize(
    "path", [f"{SITE}/broker/changed.py", f"{SITE}/evil/core.py", "etc/cron.d/x"]
)
def test_file_of_unknown_origin_is_refused(path):
    with pytest.raises(LookupError, match=re.escape(path)):
        describe_package("vitrail.deb", {**FILES, path: b"other"}, SOURCES)


def test_document_names_packages_wheels_and_time():
    packages = [("vitrail.deb", b"deb", FILES), ("vitrail-x11.deb", b"x11", {})]
    document = describe_release(packages, SOURCES, "0.2.0", 86400)
    assert document["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    names = [component["name"] for component in document["components"]]
    assert names == ["vitrail.deb", "vitrail-x11.deb", "click"]
    assert document == describe_release(packages, SOURCES, "0.2.0", 86400)
    references = {component["bom-ref"] for component in document["components"]}
    for row in document["dependencies"]:
        assert set(row["dependsOn"]) <= references


def test_archive_does_not_depend_on_times_modes_and_order(tmp_path):
    digests = set()
    for name, names in (("first", "ab"), ("second", "ba")):
        root = tmp_path / name
        root.mkdir()
        for file in names:
            (root / file).write_text(file)
        os.utime(root / "a", (len(digests), len(digests)))
        (root / "b").chmod(0o600 if name == "first" else 0o644)
        (root / "link").symlink_to("a")
        write_archive(tmp_path / f"{name}.tar.gz", root, "vitrail-1", 1000)
        digests.add((tmp_path / f"{name}.tar.gz").read_bytes())
    assert len(digests) == 1
    assert dict(read_archive(tmp_path / "first.tar.gz")) == {
        "vitrail-1/a": b"a",
        "vitrail-1/b": b"b",
        "vitrail-1/link": b"-> a",
    }
    with tarfile.open(tmp_path / "first.tar.gz") as archive:
        assert {member.mtime for member in archive} == {1000}


def test_notes_are_the_section_of_the_version():
    changelog = "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\nNew.\n\n## [0.1.0]\n\nOld.\n"
    notes = extract_section(changelog, "0.2.0")
    assert notes == "# Vitrail 0.2.0, 2026-12-01\n\nNew.\n"
    with pytest.raises(LookupError, match=r"has no section '## \[0\.3\.0\]'"):
        extract_section(changelog, "0.3.0")


def test_present_version_has_notes():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert len(extract_section(changelog, PROJECT["version"])) > 100


def test_lock_has_hashes_of_every_dependency():
    lock = WHEELS["read_lock"]((ROOT / "requirements-release.lock").read_text())
    for entry in lock.values():
        assert re.search(r"==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
    extras = PROJECT["optional-dependencies"]
    needed = [
        *PROJECT["dependencies"],
        *extras["fleet"],
        *extras["report"],
        *extras["top"],
    ]
    for requirement in map(Requirement, needed):
        entry = lock[WHEELS["canonical_name"](requirement.name)]
        version = re.search(r"==([^\s;\\]+)", entry)[1]
        assert requirement.specifier.contains(version), requirement


def test_lock_has_the_versions_of_the_tests():
    tested = dict(
        line.partition("==")[::2]
        for line in (ROOT / "requirements-dev.lock").read_text().splitlines()
        if "==" in line
    )
    name = WHEELS["canonical_name"]
    tested = {name(distribution): version for distribution, version in tested.items()}
    lock = WHEELS["read_lock"]((ROOT / "requirements-release.lock").read_text())
    versions = {key: re.search(r"==([^\s;\\]+)", e)[1] for key, e in lock.items()}
    assert {key: tested[key] for key in versions} == versions


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="the C compiler is missing")
def test_compiled_parts_of_two_directories_are_identical(tmp_path):
    """Compilers write the build's directory into debug information."""
    builds = []
    for name in ("first", "another-directory"):
        source = tmp_path / name
        for path in (ROOT / "setup.py", ROOT / "pyproject.toml", *COMPILED):
            copied = source / path.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)
        argv = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "out"]
        subprocess.run(argv, check=True, cwd=source, timeout=300)
        files = (source / "out").rglob("*.so")
        builds.append({path.name: path.read_bytes() for path in files})
    first, second = builds
    assert first, "nothing was compiled"
    assert [name for name in first if first[name] != second.get(name)] == []
