"""The guest package: one shell script that installs the agent in any VM."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.ipc import agent
from shims import bundle
from tests.kit.brokerctl import called, home
from tests.kit.vm.guest_container import ADA, ROOT_LINE, GuestContainer, output

SHELLS = (("dash",), ("bash",), ("busybox", "sh"))
LIB = "usr/local/lib/vitrail"
TOOLS = (
    "sh",
    "awk",
    "id",
    "cat",
    "head",
    "chmod",
    "rm",
    "mkdir",
    "sort",
    "cp",
    "python3",
)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("installer") / "vitrail-guest.sh"
    path.write_bytes(bundle.guest_installer())
    return path


@pytest.fixture
def root(tmp_path):
    """The file system of a guest that systemd runs."""
    top = tmp_path / "root"
    (top / "etc").mkdir(parents=True)
    (top / "etc/passwd").write_text(ROOT_LINE + ADA)
    (top / "lib/systemd").mkdir(parents=True)
    (top / "lib/systemd/systemd").write_text("")
    return top


def install(script, *words, shell=("dash",), **env):
    return subprocess.run(
        [*shell, str(script), *words],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **env},
        timeout=60,
    )


def files(top):
    """Everything below a directory: content, mode or target of a link."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = (path.stat().st_mode & 0o777, path.read_bytes())
    return found


def test_every_shell_installs_the_same_and_removes_all_of_it(script, tmp_path):
    trees = []
    for shell in SHELLS:
        top = tmp_path / shell[0]
        for part in ("etc", "lib/systemd"):
            (top / part).mkdir(parents=True)
        (top / "etc/passwd").write_text(ROOT_LINE + ADA)
        (top / "lib/systemd/systemd").write_text("")
        before = files(top)
        made = install(script, "--root", str(top), shell=shell)
        assert made.returncode == 0, made.stderr
        trees.append(files(top))
        gone = install(script, "--root", str(top), "--uninstall", shell=shell)
        assert gone.returncode == 0, gone.stderr
        assert files(top) == before
    assert trees[0] == trees[1] == trees[2]


def test_programs_in_it_are_those_of_the_sources(script, root):
    install(script, "--root", str(root))
    lib = root / LIB
    assert (lib / "vitrail_guest.py").read_bytes() == bundle.guest_agent()
    assert (lib / "vitrail_files.py").read_bytes() == bundle.files_tool()
    assert (lib / "vitrail_call.py").read_bytes() == bundle.call_tool()
    for name, module in (("devices", "usb_devices"), ("security_key", "security_key")):
        assert (lib / f"vitrail_{name}.py").read_text() == bundle.usb_tool(module)


def test_programs_of_qubes_find_theirs_where_the_guest_has_none(script, root):
    own = root / "usr/bin/qrexec-client-vm"
    own.parent.mkdir(parents=True)
    own.write_text("of the guest")
    for _ in range(2):
        install(script, "--root", str(root))
        assert own.read_text() == "of the guest"
        found = os.readlink(root / "usr/lib/qubes/qrexec-client-vm")
        assert found == "/usr/local/bin/qrexec-client-vm"
    install(script, "--root", str(root), "--uninstall")
    assert own.read_text() == "of the guest"
    assert not os.path.lexists(root / "usr/lib/qubes/qrexec-client-vm")
    assert not (root / "usr/local/bin/qrexec-client-vm").exists()


def test_a_second_run_changes_nothing_and_is_removed_too(script, root):
    before = files(root)
    install(script, "--root", str(root))
    first = files(root)
    install(script, "--root", str(root))
    assert files(root) == first
    install(script, "--root", str(root), "--uninstall")
    assert files(root) == before


def test_lingering_that_was_there_before_stays(script, root):
    linger = root / "var/lib/systemd/linger/ada"
    linger.parent.mkdir(parents=True)
    linger.write_text("")
    install(script, "--root", str(root))
    install(script, "--root", str(root), "--uninstall")
    assert linger.exists()


def test_a_script_that_is_cut_does_nothing(script, root):
    """As with a connection that breaks: a shell runs the part that it has read."""
    before = files(root)
    whole = script.read_bytes()
    for share in (0.3, 0.6, 0.95, 0.9999):
        piece = whole[: int(len(whole) * share)]
        subprocess.run(
            ["dash", "-s", "--", "--root", str(root)],
            input=piece,
            check=False,
            capture_output=True,
            timeout=60,
        )
        assert files(root) == before


def test_through_a_pipe(script, root):
    made = subprocess.run(
        ["dash", "-s", "--", "--root", str(root)],
        input=script.read_bytes(),
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr
    assert (root / LIB / "vitrail_guest.py").exists()


@pytest.mark.parametrize(
    "place",
    [
        "usr",
        "usr/local/lib",
        LIB,
        f"{LIB}/vitrail_guest.py",
        "usr/local/bin",
        "etc/profile.d",
        "etc/systemd/user",
        "var/lib/systemd/linger",
    ],
)
def test_a_link_in_a_foreign_file_system_leads_nowhere(script, root, tmp_path, place):
    """Attack: the image's owner has root install into it, and links out of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    link = root / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    made = install(script, "--root", str(root))
    assert made.returncode == 1
    assert "symbolic link" in made.stderr
    assert files(outside) == {"kept": files(outside)["kept"]}


@pytest.mark.parametrize("line", ["/home/ada/.ssh/x", "/etc/../home/x", "relative", ""])
def test_a_manifest_names_nothing_else(script, root, line):
    """Attack: what --uninstall removes is a list in the guest."""
    kept = root / "home/ada/.ssh"
    kept.mkdir(parents=True)
    for path in (kept / "x", root / "home/x"):
        path.write_text("kept")
    install(script, "--root", str(root))
    (root / LIB / "manifest").write_text(line + "\n")
    gone = install(script, "--root", str(root), "--uninstall")
    assert gone.returncode == 1
    assert "the manifest has the path" in gone.stderr
    assert (kept / "x").exists()
    assert (root / "home/x").exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a;touch x:x:1000:1000::/home/a:/bin/sh", "not the name of a user"),
        ("-a:x:1000:1000::/home/a:/bin/sh", "not the name of a user"),
        ("a:x:1000:1000::/home/$(touch x):/bin/sh", "home directory"),
        ("a:x:1000:1000::/home/a b:/bin/sh", "home directory"),
        ("a:x:1000:1000:::/bin/sh", "home directory"),
        ("a:x:1000:1000::/home/a:/usr/sbin/nologin", "no ordinary user"),
        ("a:x:999:1000::/home/a:/bin/sh", "no ordinary user"),
    ],
)
def test_users_that_no_unit_can_have(script, root, line, why):
    (root / "etc/passwd").write_text(ROOT_LINE + line + "\n")
    before = files(root)
    made = install(script, "--root", str(root))
    assert (made.returncode, files(root)) == (1, before)
    assert why in made.stderr


def test_wrong_options_are_refused_before_anything_is_written(script, root):
    before = files(root)
    for words in (["--what"], ["--user"], ["--init", "runit"], ["--root", "/none"]):
        assert install(script, "--root", str(root), *words).returncode in {1, 2}
    assert install(script, "--root", str(root), "--user", "bob").returncode == 1
    assert files(root) == before


@pytest.mark.parametrize(
    ("there", "init", "units"),
    [
        (
            "usr/lib/systemd/systemd",
            "systemd",
            {
                "etc/systemd/user/vitrail-guest.service",
                "etc/systemd/system/vitrail-folders.socket",
                "etc/systemd/system/vitrail-folders@.service",
            },
        ),
        ("sbin/openrc-run", "openrc", {"etc/init.d/vitrail-guest"}),
        ("nothing", "none", {"etc/xdg/autostart/vitrail-guest.desktop"}),
    ],
)
def test_the_unit_is_that_of_the_guests_init(script, tmp_path, there, init, units):
    del init
    top = tmp_path / "root"
    for name in (there, "etc/passwd"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(ROOT_LINE + ADA)
    install(script, "--root", str(top))
    found = {
        name
        for name in files(top)
        if name.startswith(("etc/systemd", "etc/init.d", "etc/xdg"))
        and "wants" not in name
    }
    assert found == units


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_unit_passes_systemds_own_check(script, root, tmp_path):
    install(script, "--root", str(root))
    unit = tmp_path / "vitrail-guest.service"
    program = root / "usr/local/bin/vitrail-guest"
    text = (root / "etc/systemd/user/vitrail-guest.service").read_text()
    unit.write_text(text.replace("/usr/local/bin/vitrail-guest", str(program)))
    checked = subprocess.run(
        ["systemd-analyze", "--user", "--man=no", "verify", str(unit)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    mine = [line for line in checked.stderr.splitlines() if "vitrail" in line]
    assert (checked.returncode, mine) == (0, [])


# -- in a container of this machine's Debian, as its root --------------------------------


@asynccontextmanager
async def installed(tmp_path, script):
    """Yield (broker): the agent runs as the guest's user, started by its command."""
    guest = GuestContainer(tmp_path)
    made = guest.as_root(script, "--no-packages", "--init", "none")
    assert made.returncode == 0, made.stderr
    async with guest.agent() as broker:
        yield broker


async def test_the_installed_agent_serves_its_broker(script, tmp_path):
    async with installed(tmp_path, script) as broker:
        hello = await broker.accept()
        assert hello.version == agent.VERSION
        names = "USER XDG_RUNTIME_DIR PULSE_SERVER BROWSER XDG_DATA_DIRS"
        words = [f"${name}" for name in names.split()]
        said, code = await output(
            broker, "sh", "-c", f"echo {' '.join(words)}; command -v xdg-open"
        )
        runtime = "/home/ada/.cache/vitrail"
        assert (code, said.split()) == (
            0,
            [
                "ada",
                f"{runtime}/session",
                f"unix:{runtime}/session/pulse/native",
                f"{runtime}/bin/xdg-open",
                f"/{LIB}/share:/usr/local/share:/usr/share",
                f"{runtime}/bin/xdg-open",
            ],
        )


_LOOK = """\
. /etc/profile.d/vitrail.sh
echo $WAYLAND_DISPLAY $PULSE_SERVER
export DISPLAY=:0
unset WAYLAND_DISPLAY
. /etc/profile.d/vitrail.sh
echo $WAYLAND_DISPLAY.
"""


async def test_a_shell_without_a_display_finds_the_agents(script, tmp_path):
    async with installed(tmp_path, script) as broker:
        await broker.accept()
        await broker.run("true", display=True)  # waits until waypipe is up
        await broker.receive(agent.AgentStarted)
        found = subprocess.run(
            [*GuestContainer(tmp_path).words(uid=1000), "sh", "-c", _LOOK],
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        runtime = "/home/ada/.cache/vitrail/session"
        assert found.stdout.split() == [
            f"{runtime}/wayland-0",
            f"unix:{runtime}/pulse/native",
            ".",  # a desktop of the guest's own stays what programs find
        ]


def test_a_python_that_is_too_old_is_refused(script, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "python3").write_text("#!/bin/sh\nexit 1\n")
    (folder / "python3").chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    made = GuestContainer(tmp_path).as_root(script, "--no-packages", path=path)
    assert made.returncode == 1
    assert "Python 3.9 or later is missing" in made.stderr
    assert files(tmp_path / "local") == {}


@pytest.mark.parametrize(
    ("manager", "call"),
    [
        ("apt-get", "install -y --no-install-recommends python3 waypipe"),
        ("dnf", "install -y python3 waypipe"),
        ("pacman", "-S --needed --noconfirm python waypipe"),
        ("apk", "add --update-cache python3 waypipe"),
    ],
)
def test_missing_packages_are_asked_of_the_guests_manager(
    script, tmp_path, manager, call
):
    """The manager is a stand-in that notes its call and then has a waypipe."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name, path="/usr/bin:/bin"))
    (folder / manager).write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n'
        f"printf '#!/bin/sh\\necho waypipe 0.10.4\\n' >{folder}/waypipe\n"
        f"chmod 755 {folder}/waypipe\n"
    )
    (folder / manager).chmod(0o755)
    made = GuestContainer(tmp_path).as_root(script, "--init", "none", path=str(folder))
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "calls").read_text().splitlines()[-1] == call
    assert "waypipe 0.8 or later is missing" not in made.stdout


def test_a_manager_that_fails_stops_the_installation(script, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name, path="/usr/bin:/bin"))
    (folder / "apk").write_text("#!/bin/sh\nexit 1\n")
    (folder / "apk").chmod(0o755)
    made = GuestContainer(tmp_path).as_root(script, "--init", "none", path=str(folder))
    assert made.returncode == 1
    assert (
        "cannot be installed; waypipe is in the repository 'community'" in made.stderr
    )
    assert files(tmp_path / "local") == {}


def test_waypipe_before_0_8_is_reported(script, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "waypipe").write_text("#!/bin/sh\necho waypipe 0.7.2\n")
    (folder / "waypipe").chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    made = GuestContainer(tmp_path).as_root(
        script, "--no-packages", "--init", "none", path=path
    )
    assert made.returncode == 0
    assert "waypipe 0.8 or later is missing" in made.stdout


# -- brokerctl --------------------------------------------------------------------------------


def test_brokerctl_writes_it_and_prints_the_command(tmp_path):
    path = tmp_path / "here.sh"
    with home() as env:
        answer = called("guest", "install", "-o", str(path), env=env)
        assert (answer.code, answer.out) == (0, "")
        assert path.read_bytes() == bundle.guest_installer()
        assert f"ssh root@GUEST sh -s < {path}" in answer.err
        answer = called("guest", "install", "-o", "-", env=env)
        assert (answer.code, answer.out.encode()) == (0, bundle.guest_installer())
        (found,) = called("guest", "install", "--json", env=env).objects
        assert Path(found["file"]).read_bytes() == bundle.guest_installer()
