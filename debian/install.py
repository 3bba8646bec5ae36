"""Fill the package's tree: private environment, programs, units, completion, examples.

Run by debian/rules: ``install.py DEBIAN``, the directory that has a tree for each
package; all goes into that of ``vitrail``, which ``divide.py`` divides.  The
environment's paths are those of the installed package, not of the build.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / ".ci/packaging"))

from wheels import install_wheels  # noqa: E402

DATA = SOURCE / "broker/data"
INSTALLED = "/usr/lib/vitrail"
DEBIANS = "/usr/lib/python3/dist-packages"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# pip's own, only needed here; pyseccomp is replaced by Debian's python3-seccomp.
UNWANTED = (
    "pip",
    "setuptools",
    "wheel",
    "pyseccomp",
    "_distutils_hack",
    "pkg_resources",
)
COMPLETION = {
    "bash": "usr/share/bash-completion/completions/brokerctl",
    "zsh": "usr/share/zsh/vendor-completions/_brokerctl",
    "fish": "usr/share/fish/vendor_completions.d/brokerctl.fish",
}
# Prints the Debian packages whose modules the environment uses.
USED = """
import importlib.metadata as m, re, subprocess, sys
seen, wanted = {}, sys.argv[1:]
while wanted:
    name = re.match(r"[\\w.-]+", wanted.pop())[0]
    try:
        dist = m.distribution(name)
    except m.PackageNotFoundError:
        continue
    if dist.name in seen:
        continue
    seen[dist.name] = str(dist._path)
    wanted += [r for r in dist.requires or () if "extra ==" not in r]
paths = [p for p in seen.values() if p.startswith("/usr/lib/python3/")]
if not paths:
    sys.exit()
out = subprocess.run(["dpkg", "-S", *paths], check=True, capture_output=True, text=True)
print("\\n".join(sorted({line.split(":")[0] for line in out.stdout.splitlines()})))
"""


def run(*words: str | Path) -> str:
    """A command's output; ends the build when it fails."""
    return subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE).stdout


def environment(private: Path, site: Path) -> None:
    """A virtual environment with Vitrail, and what Debian's modules lack."""
    shutil.rmtree(private, ignore_errors=True)
    run(sys.executable, "-m", "venv", private)
    (private / ".gitignore").unlink(missing_ok=True)  # by venv of Python 3.13
    # A path file and not --system-site-packages: nothing of /usr/local and of the
    # user's own directory comes in.
    (site / "debian.pth").write_text(f"{DEBIANS}\n")
    install_wheels(private / "bin/python3", "report,top")


def dependencies(private: Path) -> dict[str, list[str]]:
    """The packages of Debian's modules, and the Python that the others were made for."""

    def used(*names: str) -> set[str]:
        return {*run(private / "bin/python3", "-c", USED, *names).split()}

    minor = sys.version_info.minor
    python = [f"python3 (>= 3.{minor})", f"python3 (<< 3.{minor + 1})"]
    core = used("vitrail", "textual") | {"python3-seccomp"}
    workbench = used("jinja2") - core
    return {"vitrail": [*python, *sorted(core)], "vitrail-workbench": sorted(workbench)}


def clean(private: Path, site: Path) -> None:
    """Take out what only the build needed."""
    for name in UNWANTED:
        for found in [
            *site.glob(name),
            *site.glob(f"{name}.py"),
            *site.glob(f"{name}-*.dist-info"),
        ]:
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    (site / "distutils-precedence.pth").unlink(missing_ok=True)
    for found in site.rglob("__pycache__"):
        shutil.rmtree(found)
    # They have paths of the build, and of files that are not there any more.
    for name in ("direct_url.json", "RECORD"):
        for found in site.glob(f"*.dist-info/{name}"):
            found.unlink()
    for found in (private / "include", private / "share"):
        shutil.rmtree(found, ignore_errors=True)
    for found in (private / "bin").iterdir():
        found.unlink()
    (private / "lib64").unlink(missing_ok=True)
    (private / "bin/python3").symlink_to(f"/usr/bin/{PYTHON}")
    (private / "pyvenv.cfg").write_text(
        "home = /usr/bin\ninclude-system-site-packages = false\n"
    )


def programs(root: Path, private: Path) -> None:
    """The programs of pyproject.toml, with links in /usr/bin."""
    table = tomllib.loads((SOURCE / "pyproject.toml").read_text())["tool"]["vitrail"]
    directory = root / "usr/bin"
    directory.mkdir(parents=True, exist_ok=True)
    for name, entry in table["programs"].items():
        module, function = entry.split(":")
        path = private / "bin" / name
        path.write_text(
            f"#!{INSTALLED}/bin/python3 -I\nimport sys\n\n"
            f"from {module} import {function}\n\nsys.exit({function}())\n"
        )
        path.chmod(0o755)
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(f"../lib/vitrail/bin/{name}")


def units(root: Path) -> None:
    """The units, with the absolute paths that systemd wants."""
    for kind in ("system", "user"):
        target = root / "usr/lib/systemd" / kind
        target.mkdir(parents=True, exist_ok=True)
        for unit in sorted((DATA / "systemd" / kind).iterdir()):
            text = re.sub(
                r"^(Exec(?:Start|StopPost))=(?=[a-z])",
                r"\1=/usr/bin/",
                unit.read_text(),
                flags=re.MULTILINE,
            )
            (target / unit.name).write_text(text)


def copy(source: Path, target: Path) -> None:
    """A file or a directory, into the directory ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target / source.name, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def shared(root: Path) -> None:
    """Desktop files, completion, examples, documentation, empty configuration."""
    share = root / "usr/share"
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
    for name in ("sandboxes.d", "policy.d"):
        (root / "etc/vitrail" / name).mkdir(parents=True, exist_ok=True)


def completion(root: Path, private: Path) -> None:
    """What ``brokerctl completion`` prints for each shell."""
    for shell, place in COMPLETION.items():
        words = ("-m", "broker.cli.app", "completion", shell)
        text = run(private / "bin/python3", *words)
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)


def main(debian: Path) -> None:
    """Entry point."""
    root = debian / "vitrail"
    private = root / INSTALLED[1:]
    site = private / "lib" / PYTHON / "site-packages"
    environment(private, site)
    for name, packages in dependencies(private).items():
        with (debian / f"{name}.substvars").open("a") as file:
            file.write(f"{name}:Depends={', '.join(packages)}\n")
    completion(root, private)
    clean(private, site)
    programs(root, private)
    units(root)
    shared(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
