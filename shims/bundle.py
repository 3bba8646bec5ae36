"""Make one file of a shim's package, for copying into a guest.

    python3 -m shims.bundle DIRECTORY     writes vitrail_guest.py, vitrail_files.py,
                                          vitrail_call.py, vitrail_x11.py,
                                          vitrail_devices.py,
                                          vitrail_security_key.py, vitrail-guest.sh

A guest gets one file that any Python from 3.9 runs, with nothing installed beside it.
The file is the modules of the package one after the other, each after those that it
imports, with the imports of the standard library at the top; the same sources give the
same bytes.  It is text and not a zip archive because the init of every image, older
ones included, imports it from ``/usr/lib/vitrail``: so the bytecode that was made with
the image is used, which saves a second of each start where KVM is missing, and a
person can read in the guest what runs there.

All modules share one namespace in that file.  So a module may import from the others
only by ``from shims.PACKAGE.MODULE import NAME``, and no name may be defined twice; both
are checked here.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import (
    Dict,
    Iterable,
    List,
    Mapping,
    Match,
    Optional,
    Sequence,
    Set,
    Tuple,
)

HERE = Path(__file__).parent
CALL_MAIN = """

if __name__ == "__main__":
    run_call([os.path.basename(sys.argv[0]), *sys.argv[1:]])
"""
CARRIED_MAIN = """

if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(reported(sys.argv[1], lambda: VERBS[sys.argv[1]](sys.argv[2:])))
"""
INSTALLER = "vitrail-guest.sh"
MINIMAL_INSTALLER = "vitrail-guest-minimal.sh"
END_OF_FILE = "END_OF_VITRAIL_FILE"


_DOCSTRING = re.compile(r'\A"""(.*?)"""', re.DOTALL)
_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:(?: .*)?\n)+", re.MULTILINE)
_IMPORT = re.compile(
    r"^(?:from (?P<module>\S+) )?import (?:\((?P<many>[^)]*)\)|(?P<one>[^#\n]+))(?: *#.*)?$",
    re.MULTILINE,
)
_DEFINITION = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)
_ASSIGNMENT = re.compile(
    r"^(?:for )?(\w+(?:, \w+)*)(?:: [^=\n]+$|(?:: [^=\n]+)? = | in )", re.MULTILINE
)


class BundleError(Exception):
    """A module of a shim's package cannot be put into one file."""


class _Module:
    """One module: its text, its imports, and the names that it defines.

    Read by lines and not by Python's parser, which takes a tenth of a second for a tool
    that the host makes while a user waits for a window, and megabytes that stay.  A test
    compares what both find.
    """

    def __init__(self, name: str) -> None:
        path = HERE / (name.replace(".", "/") + ".py")
        source = path.read_text(encoding="utf-8")
        self.name = path.stem
        self.library: Set[str] = set()
        self.needs: List[str] = []
        about = _docstring(source)
        self.title = (about or self.name).splitlines()[0]
        for gone in (_DOCSTRING, _TYPES):
            source = gone.sub(_blank, source)
        for found in _IMPORT.finditer(source):
            self._import(found, source.count("\n", 0, found.start()) + 1)
        source = _IMPORT.sub(_blank, source)
        self.defined = set(_DEFINITION.findall(source))
        for targets in _ASSIGNMENT.findall(source):
            self.defined.update(targets.split(", "))
        self.text = source.strip("\n")

    def _import(self, found: Match[str], line: int) -> None:
        """Note an import statement, of the standard library or of ours."""
        module = found["module"]
        names = [name.strip() for name in (found["many"] or found["one"]).split(",")]
        if not module:
            self.library.update(f"import {name}" for name in names)
            return
        if module.startswith(".") or any(" as " in name for name in names):
            raise BundleError(f"{self.name}, line {line}: from MODULE import NAME")
        if module.startswith("shims."):
            self.needs.append(module[len("shims.") :])
        elif module != "__future__":
            self.library.update(
                f"from {module} import {name}"
                for name in names
                if name and name != "TYPE_CHECKING"
            )


def _docstring(source: str) -> str:
    found = _DOCSTRING.match(source)
    return found[1].strip() if found else ""


def _blank(found: Match[str]) -> str:
    """Empty lines in place of a statement: the others keep their distance."""
    return "\n" * found[0].count("\n")


def bundle(
    package: str,
    constants: Optional[Mapping[str, str]] = None,
    names: Sequence[str] = (),
) -> str:
    """Return one program of the modules of ``shims/PACKAGE`` and those that they import.

    ``names``: of the modules, if not all.  ``constants`` are strings that take the place of a line ``NAME = ""``.
    Raises BundleError for a module that needs more than its text, for a name that two
    modules define, and for modules that import each other.
    """
    folder = HERE / package
    stems = names or {path.stem for path in folder.glob("*.py")} - {"__init__"}
    order = _ordered(f"{package}.{stem}" for stem in sorted(stems, key=_main_last))
    _check_names(order)
    about = _docstring((folder / "__init__.py").read_text("utf-8"))
    library = sorted(set().union(*(module.library for module in order)))
    parts = [
        "#!/usr/bin/python3 -I",
        f'"""{about}\n"""',
        f"# Made by shims/bundle.py of the modules in shims/{package}: edit those.",
        "from __future__ import annotations\n",
        "\n".join(library),
    ]
    parts += [
        f"\n\n# -- {module.name}: {module.title}\n\n{module.text}" for module in order
    ]
    return with_constants("\n".join(parts) + "\n", constants or {})


def with_constants(text: str, constants: Mapping[str, str]) -> str:
    """Return a program with these strings in place of its lines ``NAME = ""``.

    Raises BundleError where it has not exactly one such line.
    """
    for name, value in constants.items():
        empty = f'\n{name} = ""\n'
        if text.count(empty) != 1:
            raise BundleError(f"{name} is not one empty string in the program")
        lines = "".join(f"    {line!r}\n" for line in value.splitlines(keepends=True))
        text = text.replace(empty, f"\n{name} = (\n{lines})\n")
    return text


def _main_last(stem: str) -> Tuple[bool, str]:
    return stem == "__main__", stem


def _ordered(names: Iterable[str]) -> List[_Module]:
    """Return modules and those that they import, each after its imports."""
    done: Dict[str, _Module] = {}
    under_way: List[str] = []

    def visit(name: str) -> None:
        if name in under_way:
            raise BundleError(f"modules import each other: {' '.join(under_way)}")
        if name in done:
            return
        under_way.append(name)
        module = _Module(name)
        for needed in module.needs:
            visit(needed)
        under_way.pop()
        done[name] = module

    for name in names:
        visit(name)
    return list(done.values())


def _check_names(modules: List[_Module]) -> None:
    """Raise BundleError for a name that two modules define."""
    owners: Dict[str, str] = {}
    for module in modules:
        for name in sorted(module.defined):
            if name in owners:
                raise BundleError(f"{owners[name]} and {module.name} define {name}")
            owners[name] = module.name


@lru_cache(maxsize=None)
def files_tool() -> bytes:
    """Return ``vitrail_files.py``: the commands for files and links."""
    return bundle("files").encode()


def carried_tool(verbs: str) -> bytes:
    """Return a program of one table of commands, ``shims.files.MODULE:TABLE``, alone.

    A jail at the desktop has it and none of the other commands.
    """
    module, _, table = verbs.partition(":")
    text = bundle("files", names=[module.rpartition(".")[2]])
    return (text + CARRIED_MAIN.replace("VERBS", table)).encode()


@lru_cache(maxsize=None)
def call_tool() -> bytes:
    """Return ``vitrail_call.py``: a plain call, which starts fast."""
    return (bundle("files", names=["caller"]) + CALL_MAIN).encode()


def has_x11() -> bool:
    """Return whether the program for X11 windows is on this machine: it is a package."""
    return (HERE / "x11" / "x11.py").is_file()


@lru_cache(maxsize=None)
def x11_bridge() -> bytes:
    """Return ``vitrail_x11.py``: it shows X11 windows as Wayland windows."""
    return bundle("x11").encode()


@lru_cache(maxsize=None)
def wayland_end() -> bytes:
    """Return ``vitrail_wayland.py``: it leaves the pixels of windows in an arena."""
    return bundle("wayland").encode()


@lru_cache(maxsize=None)
def hook_program() -> bytes:
    """Return the hook of Podman, of root's Podman and of libvirt."""
    return bundle("hooks", names=["hook"]).encode()


def usb_tool(name: str) -> str:
    """Return ``vitrail_devices.py`` or ``vitrail_security_key.py``."""
    return bundle("usb", names=[name])


@lru_cache(maxsize=None)
def guest_agent() -> bytes:
    """Return ``vitrail_guest.py``: the guest agent.

    The programs for files and links, windows in an arena, X11 windows, USB devices and security keys are inside it, as
    text: the initramfs of every image, older ones included, brings one file.  X11 windows
    are missing if their package is not installed.
    """
    constants = {
        "FILES_TOOL": files_tool().decode(),
        "CALL_TOOL": call_tool().decode(),
        "WAYLAND_END": wayland_end().decode(),
        "DEVICES_TOOL": usb_tool("usb_devices"),
        "SECURITY_KEY_TOOL": usb_tool("security_key"),
    }
    if has_x11():
        constants["X11_BRIDGE"] = x11_bridge().decode()
    return bundle("guest", constants).encode()


@lru_cache(maxsize=None)
def guest_installer() -> bytes:
    """Return ``vitrail-guest.sh``: a shell script that installs all of it in a guest.

    The programs are in it as text, so that a user can read what runs in the guest.
    Raises BundleError where a program has the line by which its text would end.
    """
    script = (HERE / "guest_install.sh").read_text("utf-8")
    programs = {
        "vitrail_guest.py": guest_agent().decode(),
        "vitrail_files.py": files_tool().decode(),
        "vitrail_call.py": call_tool().decode(),
        "vitrail_devices.py": usb_tool("usb_devices"),
        "vitrail_security_key.py": usb_tool("security_key"),
    }
    for name, text in programs.items():
        mark = f"\n@{name}@\n"
        if script.count(mark) != 1 or f"\n{END_OF_FILE}\n" in text:
            raise BundleError(f"{name} cannot be inserted into the installer")
        script = script.replace(mark, f"\n{text.rstrip()}\n")
    return script.encode()


def minimal_agent() -> bytes:
    """Return the agent in C.  Raises BundleError if it was not built."""
    built = sorted((HERE / "minimal").glob("_agent*.so"))
    if not built:
        raise BundleError("the minimal agent was not built: it needs gcc")
    return built[0].read_bytes()


def minimal_installer() -> bytes:
    """Return ``vitrail-guest-minimal.sh``: installs the agent in C.

    The other installer's script with other files.  Raises BundleError.
    """
    script = (HERE / "guest_install.sh").read_text("utf-8")
    before, _, rest = script.partition("# -- the files --")
    _, _, after = rest.partition("# -- starting --")
    starting, _, main_part = after.partition("main() {")
    text = (HERE / "minimal" / "install.sh").read_text("utf-8")
    program = base64.encodebytes(minimal_agent()).decode().rstrip()
    text = text.replace("@vitrail-agent@", program)
    text = text.replace("@machine@", os.uname().machine)
    made = f"{before}# -- starting --{starting}{text}main() {{{main_part}"
    return made.replace("vitrail-guest.sh", MINIMAL_INSTALLER).encode()


def write_programs(directory: Path) -> List[Path]:
    """Write all programs into a directory that exists; returns their paths."""
    paths = []
    x11 = [("vitrail_x11.py", x11_bridge())] if has_x11() else []
    for name, content in (
        ("vitrail_guest.py", guest_agent()),
        ("vitrail_files.py", files_tool()),
        ("vitrail_call.py", call_tool()),
        *x11,
        ("vitrail_devices.py", usb_tool("usb_devices").encode()),
        ("vitrail_security_key.py", usb_tool("security_key").encode()),
        (INSTALLER, guest_installer()),
    ):
        path = directory / name
        path.write_bytes(content)
        path.chmod(0o755)
        paths.append(path)
    return paths


def main(argv: List[str]) -> int:
    """Write the programs where the command line says."""
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        print("usage: python3 -m shims.bundle DIRECTORY", file=sys.stderr)
        return 2
    for path in write_programs(Path(argv[0])):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
