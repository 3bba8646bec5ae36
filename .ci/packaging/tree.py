"""Fill a package's tree: programs, units, desktop entries, completion, pages, examples.

This is the only list of the files that Vitrail installs in addition to its Python modules,
and of the package that each file belongs to.  Debian's packages (debian/install.py), rpm,
Arch, Nix and the image for systemd-sysext all install by it; none has a list of its own.

``tree.py ROOT`` also makes the private environment, ``/usr/lib/vitrail``, of PyPI's wheels
for the Python that runs this.  ``tree.py ROOT --prefix P --interpreter PYTHON`` leaves the
environment to the caller, whose modules are PYTHON's.  ``tree.py ROOT --lists DIRECTORY``
writes for each package the list of its files, as rpm reads it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(SOURCE), str(Path(__file__).parent)]

from wheels import install_wheels  # noqa: E402

from broker.core.parts.table import PARTS, package, part_of_file  # noqa: E402

DATA = SOURCE / "broker/data"
PRIVATE = "lib/vitrail"
"""The private environment, below the prefix."""
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SITE = f"{PRIVATE}/lib/{PYTHON}/site-packages"
CORE = "vitrail-viewer"
"""The package of all files that the other packages do not have."""
MACHINES = "vitrail"
"""The package that depends on what starts machines."""
UNWANTED = ("pip", "setuptools", "wheel", "_distutils_hack", "pkg_resources")
"""Modules that only the build needs."""
ZSH = "zsh/site-functions"
COMPLETION = {
    "bash": "bash-completion/completions/brokerctl",
    "zsh": "{zsh}/_brokerctl",
    "fish": "fish/vendor_completions.d/brokerctl.fish",
}
"""Files below share/, by shell."""
SYSTEMD = {"sysusers": "sysusers.d", "tmpfiles": "tmpfiles.d"}
"""debian/vitrail.* and the directory of each below lib/; in Debian, debhelper's."""
_HOST = re.compile(
    r"(?:.*/)?vitrail-host(?:\.service)?|.*/(?:sysusers|tmpfiles)\.d/vitrail\.conf"
)
_SOURCES = {
    "lib/systemd/system": "broker/data/systemd/system",
    "share/applications": "broker/data/desktop",
}
"""Directories of the tree that hold files of parts, and where these are in the source."""
_PROGRAMS = {name: part for part, row in PARTS.items() for name in row.programs}


def run(*argv: str | Path) -> str:
    """Return a command's output; end the build if it fails."""
    return subprocess.run(
        argv, check=True, text=True, stdout=subprocess.PIPE, cwd=SOURCE
    ).stdout


def project() -> dict:
    """Return the tables of pyproject.toml."""
    return tomllib.loads((SOURCE / "pyproject.toml").read_text())


def make_environment(private: Path, *, lines: str = "") -> Path:
    """Make a virtual environment with Vitrail; return its site-packages.

    ``lines``: directories with more modules.  A path file names them, because
    --system-site-packages would also read /usr/local and the user's own directory.
    """
    shutil.rmtree(private, ignore_errors=True)
    run(sys.executable, "-I", "-m", "venv", private)
    (private / ".gitignore").unlink(missing_ok=True)  # by venv of Python 3.13
    site = private / "lib" / PYTHON / "site-packages"
    if lines:
        (site / "debian.pth").write_text(lines)
    install_wheels(private / "bin/python3", "report,top")
    return site


def clean_environment(
    private: Path, site: Path, *, unwanted: tuple[str, ...] = ()
) -> None:
    """Remove what only the build needed, and paths of the build."""
    for name in (*UNWANTED, *unwanted):
        for path in [
            *site.glob(name),
            *site.glob(f"{name}.py"),
            *site.glob(f"{name}-*.dist-info"),
        ]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (site / "distutils-precedence.pth").unlink(missing_ok=True)
    shutil.rmtree(site / "pulsectl/tests", ignore_errors=True)
    for path in site.rglob("__pycache__"):
        shutil.rmtree(path)
    # They have paths of the build, and of files that are not there any more.
    for name in ("direct_url.json", "RECORD"):
        for path in site.glob(f"*.dist-info/{name}"):
            path.unlink()
    for path in (private / "include", private / "share"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (private / "bin").iterdir():
        path.unlink()
    (private / "lib64").unlink(missing_ok=True)
    (private / "bin/python3").symlink_to(f"/usr/bin/{PYTHON}")
    (private / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\n"
    )


def compile_modules(root: Path, private: Path) -> None:
    """Compile the modules, for trees that nobody can write to later.

    The files do not depend on times or on the build's paths.
    """
    run(
        *(sys.executable, "-I", "-m", "compileall", "-q"),
        *("--invalidation-mode", "unchecked-hash"),
        *("-s", root, "-p", "/", private / "lib"),
    )


def write_programs(usr: Path, interpreter: str) -> None:
    """Write the programs of pyproject.toml, with links in bin/."""
    private = usr / PRIVATE / "bin"
    for folder in (private, usr / "bin"):
        folder.mkdir(parents=True, exist_ok=True)
    for name, entry in project()["tool"]["vitrail"]["programs"].items():
        module, function = entry.split(":")
        path = private / name
        path.write_text(
            f"#!{interpreter} -I\nimport sys\n\n"
            f"from {module} import {function}\n\nsys.exit({function}())\n"
        )
        path.chmod(0o755)
        (usr / "bin" / name).unlink(missing_ok=True)
        (usr / "bin" / name).symlink_to(f"../{PRIVATE}/bin/{name}")


def write_units(usr: Path, prefix: str) -> None:
    """Write the units, with the absolute paths that systemd requires."""
    for kind in ("system", "user"):
        target = usr / "lib/systemd" / kind
        target.mkdir(parents=True, exist_ok=True)
        for unit in sorted((DATA / "systemd" / kind).iterdir()):
            text = re.sub(
                r"^(Exec(?:Start|StopPost))=(?=[a-z])",
                rf"\1={prefix}/bin/",
                unit.read_text(),
                flags=re.MULTILINE,
            )
            (target / unit.name).write_text(text)


def copy(source: Path, target: Path) -> None:
    """Copy a file or a directory into the directory ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target / source.name, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def write_shared(usr: Path) -> None:
    """Copy desktop entries, examples and documentation."""
    share = usr / "share"
    for entry in ("Manager", "Open", "Prompt"):
        copy(DATA / f"desktop/io.vitrail.{entry}.desktop", share / "applications")
    copy(DATA / "metainfo/io.vitrail.brokerctl.metainfo.xml", share / "metainfo")
    for kind in ("ftdetect", "syntax"):
        copy(DATA / "editor/vim" / kind, share / "vim/vimfiles")
    for name in ("sandboxes.d", "policy.d", "desktop"):
        copy(DATA / name, share / "doc/vitrail/examples")
    for page in [*sorted((SOURCE / "docs").glob("*.md")), SOURCE / "README.md"]:
        copy(page, share / "doc/vitrail")
    copy(SOURCE / "docs/launchers", share / "doc/vitrail")


def write_completion(usr: Path, interpreter: str | Path, zsh: str) -> None:
    """Write what ``brokerctl completion`` prints for each shell."""
    for shell, name in COMPLETION.items():
        path = usr / "share" / name.format(zsh=zsh)
        path.parent.mkdir(parents=True, exist_ok=True)
        argv = (interpreter, "-I", "-m", "broker.cli.app", "completion", shell)
        path.write_text(run(*argv))


def write_systemd(usr: Path) -> None:
    """Copy the user and the directories of a host without a person."""
    for name, folder in SYSTEMD.items():
        (usr / "lib" / folder).mkdir(parents=True, exist_ok=True)
        text = (SOURCE / f"debian/vitrail.{name}").read_text()
        (usr / "lib" / folder / "vitrail.conf").write_text(text)


def write_manual(usr: Path) -> None:
    """Print the manual pages; needs lowdown(1)."""
    run(sys.executable, "-I", "-B", SOURCE / "docs/print_man.py", usr / "share/man")


def package_of(path: str) -> str:
    """Return the package that has a file, by its path below the prefix."""
    folder, _, name = path.rpartition("/")
    if folder in {"bin", f"{PRIVATE}/bin"} and name in _PROGRAMS:
        return package(_PROGRAMS[name])
    if _HOST.fullmatch(path):
        return MACHINES
    source = f"{_SOURCES[folder]}/{name}" if folder in _SOURCES else ""
    _, _, module = path.partition("/site-packages/")
    if path.startswith(f"{PRIVATE}/"):
        # A compiled module is where its text is.
        module = re.sub(r"__pycache__/([^/]+)\.cpython-\d+\.pyc$", r"\1.py", module)
        source = module
    part = part_of_file(source) if source else None
    return package(part) if part else CORE


def files(usr: Path) -> Iterator[str]:
    """Yield the tree's files and links, relative to the prefix."""
    for path in sorted(usr.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield str(path.relative_to(usr))


def write_lists(usr: Path, prefix: str, target: Path) -> None:
    """Write NAME.files for each package, as rpm reads it after ``%files -f``."""
    lists: dict[str, list[str]] = {
        name: [] for name in (CORE, MACHINES, *map(package, PARTS))
    }
    for path in files(usr):
        lists[package_of(path)].append(f'"{prefix}/{path}"')
    # Each private directory is the core's, which the other packages require.
    folders = [path for path in (usr / PRIVATE).rglob("*") if path.is_dir()]
    folders += [usr / PRIVATE, usr / "share/doc/vitrail"]
    lists[CORE] += sorted(
        f'%dir "{prefix}/{path.relative_to(usr)}"'
        for path in folders
        if not path.is_symlink()
    )
    for name, lines in lists.items():
        text = "".join(f"{line}\n" for line in lines)
        (target / f"{name}.files").write_text(text)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Fill a package's tree.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--prefix", default="/usr")
    parser.add_argument("--interpreter")
    parser.add_argument("--zsh", default=ZSH)
    parser.add_argument("--lists", type=Path)
    options = parser.parse_args()
    usr = options.root / options.prefix.lstrip("/")
    if options.lists:
        write_lists(usr, options.prefix, options.lists)
        return
    interpreter = options.interpreter
    if interpreter is None:
        private = usr / PRIVATE
        interpreter = f"{options.prefix}/{PRIVATE}/bin/python3"
        site = make_environment(private)
        write_completion(usr, private / "bin/python3", options.zsh)
        clean_environment(private, site)
        compile_modules(options.root, private)
    else:
        write_completion(usr, interpreter, options.zsh)
    write_programs(usr, interpreter)
    write_units(usr, options.prefix)
    write_shared(usr)
    write_systemd(usr)
    write_manual(usr)


if __name__ == "__main__":
    main()
