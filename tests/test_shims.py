"""Each program of the guest is one file that a plain Python runs."""

from __future__ import annotations

import ast
import os
import selectors
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shims import bundle
from tests.kit.shims import files_program, guest_program

ROOT = Path(__file__).parents[1]
BARE = [sys.executable, "-I", "-S", "-B"]


@pytest.fixture
def alone(tmp_path):
    """Copies of both programs in a directory where nothing else is."""
    return [Path(shutil.copy(p, tmp_path)) for p in (guest_program(), files_program())]


def test_files_program_runs_alone_without_packages(alone, tmp_path):
    (tmp_path / "x").write_bytes(b"content")
    argv = [*BARE, str(alone[1])]
    sent = subprocess.run(
        [*argv, "send", str(tmp_path / "x")], check=False, env={}, stdout=-1
    )
    assert sent.returncode == 0
    top = tmp_path / "kept"
    top.mkdir()
    kept = subprocess.run(
        [*argv, "store", str(top), "work", "0"],
        check=False,
        env={},
        input=sent.stdout,
        stdout=-1,
    )
    assert (kept.returncode, kept.stdout) == (0, b'["x"]\n')
    assert (top / "x").read_bytes() == b"content"


def test_guest_agent_runs_alone_and_brings_the_commands_for_files(alone, tmp_path):
    runtime = tmp_path / "run"
    env = {
        "PATH": os.environ["PATH"],
        "VITRAIL_AGENT": f"unix:{tmp_path}/none",
        "VITRAIL_RUNTIME": str(runtime),
    }
    argv = [*BARE, str(alone[0])]
    with subprocess.Popen(argv, env=env, stderr=subprocess.PIPE) as child:
        lines = b""
        with selectors.DefaultSelector() as selector:
            selector.register(child.stderr, selectors.EVENT_READ)
            while b"the guest agent is running" not in lines and selector.select(60):
                lines += os.read(child.stderr.fileno(), 4096) or pytest.fail(str(lines))
        child.terminate()
        child.stderr.read()
        assert child.wait(60) == 0
    assert b"the guest agent is running" in lines
    assert (runtime / "vitrail_files.py").read_bytes() == bundle.files_tool()
    assert os.access(runtime / "bin" / "xdg-open", os.X_OK)


def test_commands_for_files_use_bytecode_that_the_agent_has_made(alone, tmp_path):
    runtime = tmp_path / "run"
    runtime.mkdir()
    shutil.copy(files_program(), runtime / "vitrail_files.py")
    make = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import vitrail_guest as agent;"
        "agent.compile_aside(sys.argv[2], 'vitrail_files');"
        "assert os.wait()[1] == 0;"
        "print(agent.TOOL_START.format(directory=sys.argv[2]))"
    )
    argv = [*BARE, "-c", make, str(tmp_path), str(runtime)]
    start = subprocess.run(argv, env={}, stdout=subprocess.PIPE, check=True).stdout
    (made,) = (runtime / "__pycache__").glob("vitrail_files.*.pyc")
    assert made.stat().st_mode & 0o777 == 0o644
    argv = [*BARE[:-1], "-v", "-c", start.decode(), "vitrail-copy"]
    done = subprocess.run(argv, env={}, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"usage: vitrail-copy" in done.stderr
    assert f"code object from {str(made)!r}".encode() in done.stderr


def test_commands_for_files_import_little(tmp_path):
    """Each start costs its imports, most of all without KVM."""
    seldom = {"typing", "shutil", "subprocess", "threading", "urllib.parse", "hashlib"}
    start = (
        "import sys; sys.path.insert(0, sys.argv[1]); import vitrail_files;"
        "print(*sorted(sys.modules))"
    )
    argv = [*BARE, "-c", start, str(Path(files_program()).parent)]
    done = subprocess.run(argv, env={}, stdout=subprocess.PIPE, check=True)
    assert not seldom & set(done.stdout.decode().split())


def test_a_plain_call_imports_modules_of_c_alone(tmp_path):
    """It is what a call takes longest for, beside a socket that is connected to."""
    bundle.write_programs(tmp_path)
    start = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]);"
        "import vitrail_call; print(*sorted(set(sys.modules) - before))"
    )
    argv = [*BARE, "-c", start, str(tmp_path)]
    done = subprocess.run(argv, env={}, stdout=subprocess.PIPE, check=True, text=True)
    assert set(done.stdout.split()) <= {
        *("vitrail_call", "__future__", "_socket", "_struct", "struct", "select"),
        *("errno", "os", "posixpath", "genericpath", "stat", "_stat", "os.path"),
        *("_collections_abc", "io", "abc", "_abc"),
    }


def test_programs_are_of_the_oldest_python_and_of_its_library_only():
    programs = (bundle.files_tool(), bundle.call_tool(), bundle.x11_bridge())
    for program in (bundle.guest_agent(), *programs, bundle.wayland_end()):
        tree = ast.parse(program, feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= (
                sys.stdlib_module_names
            )


PACKAGES = ("files", "guest", "usb", "wayland", "x11")


def _own(node):
    """Whether the file of all has a statement: no import, docstring or type alone."""
    return not (
        isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and node.lineno == 1)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    )


@pytest.mark.parametrize(
    "name",
    [
        f"{package}.{path.stem}"
        for package in PACKAGES
        for path in sorted((ROOT / "shims" / package).glob("*.py"))
    ],
)
def test_a_module_is_read_as_the_parser_reads_it(name):
    """Its statements, its imports, and the names that it defines."""
    read = bundle._Module(name)
    tree = ast.parse((ROOT / "shims" / f"{name.replace('.', '/')}.py").read_text())
    own = [node for node in tree.body if _own(node)]
    assert ast.dump(ast.parse(read.text)) == ast.dump(ast.Module(own, []))
    defined, library, needs = set(), set(), []
    for node in own:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names = ast.walk(target) if target is not None else ()
            defined |= {inner.id for inner in names if isinstance(inner, ast.Name)}
    for node in tree.body:
        if isinstance(node, ast.Import):
            library |= {f"import {ast.unparse(alias)}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("shims."):
            needs.append(node.module.removeprefix("shims."))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            library |= {f"from {node.module} import {a.name}" for a in node.names}
    assert (read.defined, read.needs) == (defined, needs)
    assert read.library == library - {"from typing import TYPE_CHECKING"}
    assert read.title == (ast.get_docstring(tree) or read.name).splitlines()[0]


def test_same_sources_give_the_same_bytes(tmp_path):
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        argv = [sys.executable, "-m", "shims.bundle", str(tmp_path / seed)]
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run(argv, check=True, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    for name, content in (
        ("vitrail_guest.py", bundle.guest_agent()),
        ("vitrail_files.py", bundle.files_tool()),
    ):
        for seed in ("1", "2"):
            assert (tmp_path / seed / name).read_bytes() == content


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"a": "X = 1\n", "b": "def X(): ...\n"}, "a and b define X"),
        (
            {"a": "from shims.p.b import Y\n", "b": "from shims.p.a import X\n"},
            "import each other",
        ),
        ({"a": "from shims.p.b import Y as Z\n", "b": "Y = 1\n"}, "from MODULE import"),
        ({"a": "from .b import Y\n", "b": "Y = 1\n"}, "from MODULE import"),
    ],
)
def test_modules_that_cannot_be_one_file_are_refused(
    tmp_path, monkeypatch, sources, words
):
    monkeypatch.setattr(bundle, "HERE", tmp_path)
    (tmp_path / "p").mkdir()
    for name, text in {"__init__": '"""A package."""\n', **sources}.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    with pytest.raises(bundle.BundleError, match=words):
        bundle.bundle("p")


def test_modules_follow_those_that_they_import(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "HERE", tmp_path)
    (tmp_path / "p").mkdir()
    for name, text in {
        "__init__": '"""A package."""\n',
        "__main__": "from shims.p.a import FOUND\n\nprint(FOUND)\n",
        "a": '"""About a."""\n\nfrom shims.p.z import FIRST\n\nFOUND = FIRST + TEXT\nTEXT = ""\n',
        "z": "FIRST = 1\n",
    }.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    text = bundle.bundle("p", {"TEXT": "a\n'b\"\n"})
    assert text.index("FIRST = 1") < text.index("FOUND =") < text.index("print(")
    assert "# -- a: About a." in text
    names: dict[str, object] = {}
    part = text[text.index("TEXT = (") : text.index("\n# -- __main__")]
    exec(part, names)
    assert names["TEXT"] == "a\n'b\"\n"
