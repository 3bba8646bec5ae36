"""Fill the packages' trees: private environment and what ``.ci/packaging/tree.py`` lists.

Run by debian/rules: ``install.py DEBIAN``, the directory that has a tree for each
package; all goes into that of ``vitrail-viewer``, which ``divide.py`` divides.  The
environment's paths are those of the installed package, not of the build.
"""

from __future__ import annotations

import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / ".ci/packaging"))

import tree  # noqa: E402

DEBIANS = "/usr/lib/python3/dist-packages"
ZSH = "zsh/vendor-completions"
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


def dependencies(private: Path) -> dict[str, list[str]]:
    """The packages of Debian's modules, and the Python that the others were made for."""

    def used(*names: str) -> set[str]:
        return {*tree.run(private / "bin/python3", "-c", USED, *names).split()}

    minor = sys.version_info.minor
    python = [f"python3 (>= 3.{minor})", f"python3 (<< 3.{minor + 1})"]
    core = used("vitrail", "textual") | {"python3-seccomp"}
    workbench = used("jinja2") - core
    return {tree.CORE: [*python, *sorted(core)], "vitrail-workbench": sorted(workbench)}


def main(debian: Path) -> None:
    """Entry point."""
    root = debian / tree.CORE
    usr = root / "usr"
    private = usr / tree.PRIVATE
    site = tree.make_environment(private, lines=f"{DEBIANS}\n")
    for name, packages in dependencies(private).items():
        with (debian / f"{name}.substvars").open("a") as file:
            file.write(f"{name}:Depends={', '.join(packages)}\n")
    tree.write_completion(usr, private / "bin/python3", ZSH)
    # pyseccomp is replaced by Debian's python3-seccomp.
    tree.clean_environment(private, site, unwanted=("pyseccomp",))
    tree.write_programs(usr, f"/usr/{tree.PRIVATE}/bin/python3")
    tree.write_units(usr, "/usr")
    tree.write_shared(usr)
    tree.write_manual(usr)
    for name in ("sandboxes.d", "policy.d"):
        (root / "etc/vitrail" / name).mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
