"""All packages have the same files: their recipes install by one list and add none."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.core.parts.table import PARTS, package

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / ".ci/packaging"
RECIPES = (
    "debian/rules",
    "debian/install.py",
    ".ci/packaging/rpm/vitrail.spec.in",
    ".ci/packaging/arch/PKGBUILD.in",
    ".ci/packaging/nix/package.nix",
    ".ci/packaging/build",
)


@pytest.fixture(scope="module")
def tree():
    sys.path.insert(0, str(PACKAGING))
    try:
        return importlib.import_module("tree")
    finally:
        sys.path.remove(str(PACKAGING))


@pytest.fixture(scope="module")
def recipe(tree):
    sys.path.insert(0, str(PACKAGING))
    try:
        return importlib.import_module("recipe")
    finally:
        sys.path.remove(str(PACKAGING))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The tree below /usr, without the private environment."""
    if not shutil.which("lowdown"):
        pytest.skip("lowdown is missing")
    root = tmp_path_factory.mktemp("tree")
    argv = [sys.executable, "-B", str(PACKAGING / "tree.py"), str(root)]
    subprocess.run([*argv, "--interpreter", sys.executable], check=True)
    lists = root / "lists"
    lists.mkdir()
    subprocess.run([*argv, "--lists", str(lists)], check=True)
    return root / "usr", lists


def test_recipes_install_by_the_one_list():
    for name in RECIPES:
        text = (ROOT / name).read_text()
        assert re.search(r"tree\.py|debian/install\.py|import tree", text), name


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_names_no_file_of_its_own(name):
    """A file that one recipe adds is missing in all other packages."""
    text = re.sub(r"^\s*#.*", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    pattern = r"[\w@-]+\.(?:service|socket|timer|desktop|1|5)\b|vitrail-\w+ /usr/bin"
    hits = set(re.findall(pattern, text)) - {"vitrail-host.service"}
    assert hits == set()


def test_tree_has_all_units_and_programs(installed, tree):
    usr, _ = installed
    units = {
        path.name
        for kind in ("system", "user")
        for path in (ROOT / "broker/data/systemd" / kind).iterdir()
    }
    written = {path.name for path in (usr / "lib/systemd").rglob("*.*")}
    assert units <= written
    programs = tree.project()["tool"]["vitrail"]["programs"]
    assert {path.name for path in (usr / "bin").iterdir()} == programs.keys()


def test_unit_starts_programs_by_absolute_path(installed):
    usr, _ = installed
    starts = re.compile(r"^Exec(?:Start|StopPost)=(\S+)", re.MULTILINE)
    for unit in (usr / "lib/systemd").rglob("*.service"):
        for program in starts.findall(unit.read_text()):
            assert (usr / Path(program).relative_to("/usr")).is_symlink(), unit.name


def test_lists_have_each_file_once(installed, tree):
    usr, lists = installed
    listed = [
        line
        for path in lists.iterdir()
        for line in path.read_text().splitlines()
        if not line.startswith("%dir ")
    ]
    assert sorted(listed) == sorted(f'"/usr/{path}"' for path in tree.files(usr))


def test_only_packages_of_debian_control_have_files(installed, tree):
    _, lists = installed
    control = (ROOT / "debian/control").read_text()
    names = set(re.findall(r"^Package: (.*)$", control, re.MULTILINE))
    assert names == {tree.CORE, tree.MACHINES, *map(package, PARTS)}
    assert {path.stem for path in lists.iterdir()} == names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("bin/brokerctl", "vitrail-viewer"),
        ("bin/vitrail-viewer", "vitrail-viewer"),
        ("bin/vitrail-host", "vitrail"),
        ("lib/vitrail/bin/vitrail-host", "vitrail"),
        ("lib/systemd/system/vitrail-host.service", "vitrail"),
        ("lib/systemd/system/vitrail-ingest.service", "vitrail-fleet"),
        ("lib/sysusers.d/vitrail.conf", "vitrail"),
        ("share/applications/io.vitrail.Manager.desktop", "vitrail-manager"),
        ("share/man/man1/vitrail-host.1", "vitrail-viewer"),
        ("{site}/shims/x11/server.py", "vitrail-x11"),
        ("{site}/shims/x11/__pycache__/server.cpython-313.pyc", "vitrail-x11"),
        ("{site}/broker/host/vmm/accel.py", "vitrail-viewer"),
    ],
)
def test_file_is_in_its_package(tree, path, name):
    assert tree.package_of(path.format(site=tree.SITE)) == name


def test_viewer_requires_nothing_of_machines(recipe):
    """The viewer's machine starts no micro VM: no QEMU, no builder of images."""
    machines = {"qemu-system-x86", "qemu-utils", "mmdebstrap", "genext2fs", "vitrail"}
    for name in ("vitrail-viewer", *map(package, PARTS)):
        for section in recipe.SECTIONS:
            assert not machines & {*recipe.dependencies(name, section)}, name


@pytest.mark.parametrize("kind", ["rpm", "arch"])
def test_recipe_is_complete(recipe, kind):
    text = recipe.RECIPES[kind]()
    assert re.findall(r"@[A-Z_]+@", text.replace("@SUMS@", "")) == []
    assert "bubblewrap" in text


def test_inputs_of_nix_are_those_of_debian_control(recipe):
    committed = (PACKAGING / "nix/inputs.nix").read_text()
    assert committed == recipe.nix_inputs(), "run .ci/packaging/recipe.py nix-inputs"


def test_only_the_tried_architecture_is_claimed():
    control = (ROOT / "debian/control").read_text()
    assert set(re.findall(r"^Architecture: (.*)$", control, re.MULTILINE)) == {"amd64"}
    spec = (PACKAGING / "rpm/vitrail.spec.in").read_text()
    assert "\nExclusiveArch: x86_64\n" in spec
