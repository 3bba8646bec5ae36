"""Print a package's recipe: ``recipe.py rpm``, ``arch`` or ``nix-inputs``.

Version, parts and dependencies have one source each: pyproject.toml, the table of parts,
and debian/control, whose names of packages ``broker.core.distribution`` translates.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tree

from broker.core.distribution import PACKAGES
from broker.core.parts.table import PARTS, package

COLUMNS = ("fedora", "opensuse", "arch", "nixos")
# Names that no message needs.  "-": the distribution does not have it, or it is part of
# each of its systems.
FURTHER = {
    "busybox-static": "busybox busybox-static busybox pkgsStatic.busybox",
    "cpio": "cpio cpio cpio cpio",
    "debian-archive-keyring": "- - debian-archive-keyring -",
    "libseccomp2": "libseccomp libseccomp2 libseccomp libseccomp",
    "libudev1": "systemd-libs libudev1 systemd-libs systemd",
    "lowdown": "lowdown - lowdown lowdown",
    "procps": "procps-ng procps procps-ng procps",
    "python3-h11": "- - - -",
    "python3-psycopg": "- - - -",
    "systemd": "systemd systemd systemd -",
    "xkb-data": "xkeyboard-config xkeyboard-config xkeyboard-config xkeyboard_config",
    "zstd": "zstd zstd zstd zstd",
}
SECTIONS = ("Depends", "Recommends")


def dependencies(name: str, section: str) -> list[str]:
    """Return what a package of debian/control depends on or recommends, by its names."""
    control = (tree.SOURCE / "debian/control").read_text()
    (paragraph,) = [
        text for text in control.split("\n\n") if text.startswith(f"Package: {name}\n")
    ]
    match = re.search(rf"^{section}:((?:.*\n?)(?: .*\n?)*)", paragraph, re.MULTILINE)
    entries = re.split(r",\s*", match[1].strip()) if match else []
    names = [re.split(r"[\s|(]", entry)[0] for entry in entries]
    return [name for name in names if name and not name.startswith("${")]


def translate(name: str, distribution: str) -> str:
    """Return the distribution's name of a package of Debian; "-" if it has none."""
    row = PACKAGES.get(name) or FURTHER[name].split()
    return row[COLUMNS.index(distribution)]


def names(package_name: str, section: str, distribution: str) -> list[str]:
    """Return the names of a package's dependencies in a distribution."""
    result = []
    for name in dependencies(package_name, section):
        # The private environment has the modules, by its own interpreter.
        if name.startswith(("vitrail", "python3")):
            continue
        translated = translate(name, distribution)
        if translated != "-":
            result.append(translated)
    return sorted(set(result))


def rpm_dependencies(name: str) -> str:
    """Return the lines of a package's dependencies in the spec."""
    lines = []
    for section, tag in (("Depends", "Requires"), ("Recommends", "Recommends")):
        fedora, suse = (
            names(name, section, column) for column in ("fedora", "opensuse")
        )
        both = [item for item in fedora if item in suse]
        lines += [f"{tag}: {item}" for item in both]
        for condition, items in (("", suse), ("!", fedora)):
            if remaining := [item for item in items if item not in both]:
                lines.append(f"%if {condition}0%{{?suse_version}}")
                lines += [f"{tag}: {item}" for item in remaining]
                lines.append("%endif")
    return "\n".join(lines)


def rpm_parts() -> str:
    """Return the spec's paragraphs of the parts."""
    paragraphs = []
    for name, part in PARTS.items():
        text = "\n".join(textwrap.wrap(f"It has {part.about}.", 76))
        paragraphs.append(
            f"%package -n {package(name)}\n"
            f"Summary: Part of Vitrail, {name}\n"
            f"Requires: {tree.CORE}%{{?_isa}} = %{{version}}-%{{release}}\n"
            f"{rpm_dependencies(package(name))}\n\n"
            f"%description -n {package(name)}\n"
            "Vitrail runs applications in sandboxes on a Wayland desktop.\n"
            f"{text}\n\n"
            f"%files -n {package(name)} -f {package(name)}.files\n%license LICENSE\n"
        )
    return "\n".join(paragraphs)


def rpm() -> str:
    """Return the spec."""
    text = (tree.SOURCE / ".ci/packaging/rpm/vitrail.spec.in").read_text()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for name, value in {
        "VERSION": tree.project()["project"]["version"],
        "PYTHON": python,
        "CORE_DEPENDENCIES": rpm_dependencies(tree.CORE),
        "MACHINES_DEPENDENCIES": rpm_dependencies(tree.MACHINES),
        "PARTS": rpm_parts(),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def arch() -> str:
    """Return the PKGBUILD: one package, what only machines need is optional."""
    text = (tree.SOURCE / ".ci/packaging/arch/PKGBUILD.in").read_text()
    core = {"python", *names(tree.CORE, "Depends", "arch")}
    optional = {
        name: reason
        for source, reason in (
            (tree.CORE, "used by some features"),
            (tree.MACHINES, "micro VMs"),
            *((package(part), row.about) for part, row in PARTS.items()),
        )
        for section in SECTIONS
        for name in names(source, section, "arch")
        if name not in core
    }
    for name, value in {
        "VERSION": tree.project()["project"]["version"],
        "DEPENDS": "\n  ".join(sorted(core)),
        "OPTIONAL": "\n  ".join(
            f"'{name}: {reason}'" for name, reason in sorted(optional.items())
        ),
    }.items():
        text = text.replace(f"@{name}@", value)
    return text


def nix_inputs() -> str:
    """Return inputs.nix: the attributes of nixpkgs that programs are found in."""
    items = {
        name
        for source in (tree.CORE, tree.MACHINES)
        for section in SECTIONS
        for name in names(source, section, "nixos")
    }
    lines = "".join(f"  pkgs.{name}\n" for name in sorted(items))
    return (
        f"# Printed by .ci/packaging/recipe.py, of debian/control.\npkgs: [\n{lines}]\n"
    )


RECIPES = {"rpm": rpm, "arch": arch, "nix-inputs": nix_inputs}

if __name__ == "__main__":
    sys.stdout.write(RECIPES[sys.argv[1]]())
