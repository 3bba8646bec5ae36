"""Attack: the guest's user, or its files, against the root who installs the package.

The package is the whole script, as ``brokerctl guest`` writes it.
"""

from __future__ import annotations

import os
import pty
import re
import select
import stat
import subprocess
import time
from pathlib import Path

import pytest

from shims import bundle
from tests.kit.vm.guest_container import ADA, ROOT_LINE

MANIFEST = "usr/local/lib/vitrail/manifest"


@pytest.fixture(scope="module", name="script")
def _script(tmp_path_factory):
    path = tmp_path_factory.mktemp("installer") / "vitrail-guest.sh"
    path.write_bytes(bundle.guest_installer())
    return path


@pytest.fixture(name="root")
def _root(tmp_path):
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text(ROOT_LINE + ADA)
    (top / MANIFEST).parent.mkdir(parents=True)
    return top


def install(script: Path, top: Path, *words: str):
    """Run it as who looks after the guest's files from outside."""
    return subprocess.run(
        ["sh", str(script), "--root", str(top), *words],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
        timeout=60,  # a pipe that nobody writes would be waited for without an end
    )


# -- the files of a guest that does not run ----------------------------------------------


def test_pipe_in_the_place_of_the_list_is_replaced(script, root):
    """A device node there would be written to, a disk's too; a pipe waits for a reader."""
    os.mkfifo(root / MANIFEST)
    reader = os.open(root / MANIFEST, os.O_RDONLY | os.O_NONBLOCK)
    try:
        made = install(script, root)
        assert made.returncode == 0, made.stderr
        assert os.read(reader, 1 << 16) == b"", "it was written into what was there"
    finally:
        os.close(reader)
    assert stat.S_ISREG((root / MANIFEST).lstat().st_mode)
    assert "/etc/profile.d/vitrail.sh" in (root / MANIFEST).read_text()


@pytest.mark.parametrize("words", [(), ("--user", "ada")])
def test_list_of_users_that_is_a_link_is_not_read(script, root, tmp_path, words):
    """It would lead to the users of the machine that the installer runs on."""
    (tmp_path / "passwd").write_text("eve:x:1000:1000::/home/eve:/bin/sh\n")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(tmp_path / "passwd")
    refused = install(script, root, *words)
    assert refused.returncode == 1
    assert "symbolic link" in refused.stderr
    assert not any("eve" in path.read_text() for path in files_of(root))


@pytest.mark.parametrize("words", [(), ("--user", "ada")])
def test_list_of_users_that_is_a_pipe_is_not_waited_for(script, root, words):
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    refused = install(script, root, *words)
    assert refused.returncode == 1
    assert "not a file" in refused.stderr


def test_directory_of_users_that_is_a_link_is_not_followed(script, root, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(ADA)
    (root / "etc/passwd").unlink()
    (root / "etc").rmdir()
    (root / "etc").symlink_to(tmp_path / "etc")
    refused = install(script, root)
    assert refused.returncode == 1
    assert "symbolic link" in refused.stderr


def files_of(top: Path) -> list[Path]:
    found = (path for path in top.rglob("*") if not path.is_symlink())
    return [path for path in found if path.is_file()]


# -- the terminal of the root who installs it in a guest that runs ----------------------

PROBE = """
import os, sys
def is_terminal(fd):
    try:
        return os.isatty(fd)
    except OSError:
        return False
try:
    os.close(os.open("/dev/tty", os.O_RDWR))
    print("controlling terminal")
except OSError:
    print("no controlling terminal")
print("ttys", [fd for fd in os.listdir("/proc/self/fd") if is_terminal(int(fd))])
print("names", *sorted(os.environ))
print("\\x1b]0;title\\x07\\x9b31m")
sys.exit(int(sys.argv[1]))
"""


def on_terminal(words: list[str], env: dict[str, str]) -> tuple[str, int]:
    """Run a program on a separate terminal; its output and status."""
    pid, terminal = pty.fork()
    if not pid:
        os.execve(words[0], words, env)
    said, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            said += os.read(terminal, 4096)
        except OSError:  # EIO: no process has it open any more
            break
    os.close(terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said.decode("latin-1"), status


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize("code", [0, 3])
def test_what_runs_as_the_user_has_neither_terminal_nor_environment(
    script, tmp_path, shell, code
):
    """By the terminal it types commands for root's shell (TIOCSTI), and reads keys."""
    function = re.search(r"(?ms)^as_user\(\) \{$.*?^\}$", script.read_text())[0]
    (tmp_path / "bin").mkdir()
    # Changing the user needs root; all else is as in the package.
    setpriv = tmp_path / "bin/setpriv"
    setpriv.write_text('#!/bin/sh\nwhile [ "$1" != --init-groups ]; do shift; done\n')
    with setpriv.open("a") as file:
        file.write('shift\nexec "$@"\n')
    setpriv.chmod(0o755)
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "run.sh").write_text(
        "set -eu\npasswd_field() { echo 1000; }\n"
        f"uid=1000 home=/home/ada user=ada\n{function}\n"
        f"as_user /usr/bin/python3 -I {tmp_path}/probe.py {code} || "
        'echo "ended with $?"\necho here\n'
    )
    where = next(p for p in ("/bin", "/usr/bin") if Path(p, shell).exists())
    env = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "SSH_AUTH_SOCK": "/root/agent",
        "TOKEN": "x",
    }
    said, status = on_terminal([f"{where}/{shell}", str(tmp_path / "run.sh")], env)
    assert status == 0, said
    assert "no controlling terminal" in said
    assert "ttys []" in said
    names = re.search("names (.*?)\r?\n", said)[1].split()
    assert set(names) <= {
        *("HOME", "PATH", "XDG_RUNTIME_DIR", "USER", "LOGNAME", "LANG"),
        *("LC_CTYPE", "PWD", "SHLVL", "_"),
    }
    assert "\x1b" not in said
    assert "\x9b" not in said
    assert ("ended with 3" in said) == (code == 3)
    assert "here" in said
