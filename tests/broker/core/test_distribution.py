"""Package names and install commands of each distribution."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import broker
from broker.cli.launchers.libvirt_domain import QEMU
from broker.core.distribution import (
    PACKAGES,
    System,
    install_command,
    parse_os_release,
    read_system,
)
from broker.host.images.bzimage import _PACKAGES
from broker.session.video import pipewire_video
from docs.tables.packages import BEGIN, END, table

DEBIAN_12 = 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian 12"\n'
DEBIAN_13 = "ID=debian\nVERSION_CODENAME=trixie\n"
UBUNTU = "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\nUBUNTU_CODENAME=noble\n"
MINT = 'ID=linuxmint\nID_LIKE="ubuntu debian"\nUBUNTU_CODENAME=jammy\n'
FEDORA = 'NAME="Fedora Linux"\nID=fedora\nVARIANT_ID=workstation\n'
SILVERBLUE = "ID=fedora\nVARIANT_ID=silverblue\nOSTREE_VERSION='41.20250101.0'\n"
CENTOS = 'ID="centos"\nID_LIKE="rhel fedora"\n'
TUMBLEWEED = 'ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n'
LEAP = 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\n'
MICROOS = 'ID="opensuse-microos"\nID_LIKE="suse opensuse opensuse-tumbleweed"\n'
ARCH = "ID=arch\n"
STEAMOS = "ID=steamos\nID_LIKE=arch\n"
NIXOS = "ID=nixos\n"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (DEBIAN_12, "sudo apt install uidmap qemu-system-common"),
        (DEBIAN_13, "sudo apt install uidmap virtiofsd"),
        (UBUNTU, "sudo apt install uidmap virtiofsd"),
        (MINT, "sudo apt install uidmap qemu-system-common"),
        (FEDORA, "sudo dnf install shadow-utils virtiofsd"),
        (CENTOS, "sudo dnf install shadow-utils virtiofsd"),
        (
            SILVERBLUE,
            "sudo rpm-ostree install --apply-live shadow-utils virtiofsd",
        ),
        (TUMBLEWEED, "sudo zypper install shadow virtiofsd"),
        (LEAP, "sudo zypper install shadow virtiofsd"),
        (MICROOS, "sudo transactional-update pkg install shadow virtiofsd"),
        (ARCH, "sudo pacman -S shadow virtiofsd"),
        (NIXOS, "nix-env -iA nixos.shadow nixos.virtiofsd"),
        (
            STEAMOS,
            "add to this system's image or to a sysext: shadow virtiofsd",
        ),
        ("", "install with your package manager: shadow-utils virtiofsd"),
        ("ID=void\n", "install with your package manager: shadow-utils virtiofsd"),
    ],
)
def test_command_of_each_system(text: str, command: str) -> None:
    system = System(parse_os_release(text))
    assert system.command(("uidmap", "virtiofsd")) == command


def test_image_based_system_recognised_by_facts_alone() -> None:
    """A derivative with Fedora's os-release may have no variable that says so."""
    fedora = parse_os_release(FEDORA)
    assert System(fedora, ostree=True).image_based
    assert not System(fedora).image_based
    suse = parse_os_release(TUMBLEWEED)
    assert System(suse, frozenset({"zypper", "transactional-update"})).image_based


def test_unknown_system_with_known_package_manager() -> None:
    system = System(parse_os_release("ID=own\n"), frozenset({"pacman"}))
    assert system.command(("libpulse0",)) == "sudo pacman -S libpulse"


def test_absent_package_named_by_its_project() -> None:
    system = System(parse_os_release(ARCH + "PRETTY_NAME=Arch\n"))
    assert system.command(("mmdebstrap", "dpkg")) == (
        "sudo pacman -S dpkg; build from source, because Arch lacks it: mmdebstrap"
    )


def test_one_name_for_several_packages_given_once() -> None:
    system = System(parse_os_release(ARCH))
    packages = ("libvirt-daemon", "libvirt-daemon-driver-qemu")
    assert system.command(packages) == "sudo pacman -S libvirt"


def test_malformed_lines_of_os_release_ignored() -> None:
    text = '# comment\nID=\'arch\nNAME="two words"\n\nno equals sign\nID_LIKE=arch\n'
    assert parse_os_release(text) == {"NAME": "two words", "ID_LIKE": "arch"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (FEDORA, "run 'sudo dnf install passt'"),
        (NIXOS, "run 'nix-env -iA nixos.passt'"),
        ("", "install with your package manager: passt"),
    ],
)
def test_hint_quotes_commands_only(text: str, hint: str) -> None:
    assert System(parse_os_release(text)).hint(("passt",)) == hint


def test_own_packages_keep_their_name() -> None:
    system = System(parse_os_release(FEDORA))
    assert system.command(("vitrail-x11",)) == "sudo dnf install vitrail-x11"


def test_each_row_has_a_name_for_each_distribution() -> None:
    assert {len(row) for row in PACKAGES.values()} == {5}
    assert list(PACKAGES) == sorted(PACKAGES)


def test_this_system_has_a_command() -> None:
    assert read_system().distribution == "debian"
    assert install_command("passt") == "sudo apt install passt"


SOURCES = sorted(Path(broker.__file__).parent.rglob("*.py"))
TABLE = Path(broker.__file__).parent / "core" / "distribution.py"
COMMANDS = re.compile(
    r"sudo apt|apt install|sudo dnf|zypper|pacman -S|Debian's package"
)


def test_no_package_manager_named_outside_the_table() -> None:
    """A hint that names one cannot be followed on the other systems."""
    hits = [
        f"{path.name}:{number}"
        for path in SOURCES
        if path != TABLE
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if COMMANDS.search(line)
    ]
    assert not hits


def constants(node: ast.AST) -> list[str]:
    """Return the strings below a node."""
    return [
        child.value
        for child in ast.walk(node)
        if isinstance(child, ast.Constant) and isinstance(child.value, str)
    ]


def named_packages(tree: ast.AST) -> set[str]:
    """Return the packages that a module's source names."""
    packages: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            arguments = node.args
            if (
                name == "partial"
                and constants(node)
                and "install_hint" in ast.dump(node)
            ):
                name = "install_hint"
            if name in {"install_command", "install_hint"}:
                packages |= {text for part in arguments for text in constants(part)}
            for keyword in node.keywords:
                if keyword.arg == "programs" and isinstance(keyword.value, ast.Tuple):
                    for pair in keyword.value.elts:
                        if isinstance(pair, ast.Tuple):
                            packages |= {*constants(pair)[1].split()}
    return packages


def test_each_named_package_has_a_row() -> None:
    packages = set[str]()
    for path in SOURCES:
        if path != TABLE:
            packages |= named_packages(ast.parse(path.read_text()))
    # The prefix of qemu-system-x86 and qemu-system-arm.
    packages -= {"qemu-system-"}
    packages |= {*_PACKAGES.values(), *pipewire_video._PACKAGES, QEMU[1]}
    assert len(packages) > 25
    assert packages <= {*PACKAGES}


def test_setup_without_dpkg_names_the_packages(tmp_path: Path) -> None:
    """It installs nothing there, and says what to install."""
    for program in ("sh", "grep", "dirname", "python3"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    setup = Path(broker.__file__).parents[1] / ".ci" / "setup"
    env = {"PATH": str(tmp_path)}
    result = subprocess.run(
        [setup], check=False, env=env, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "VITRAIL_NO_PACKAGES=1 make setup" in result.stderr
    assert f"    {install_command('python3')} " in result.stderr
    assert " bubblewrap " in result.stderr


def test_page_of_packages_has_the_table() -> None:
    """Mend with: python -m docs.tables.packages docs/packages.md."""
    page = Path(broker.__file__).parents[1] / "docs" / "packages.md"
    assert f"{BEGIN}\n{table()}\n{END}" in page.read_text()


def test_packages_of_setup_have_a_row() -> None:
    names = (Path(broker.__file__).parents[1] / ".ci" / "packages").read_text()
    assert {line for line in names.split("\n") if line and line[0] != "#"} <= {
        *PACKAGES
    }


def test_programs_that_encrypt_have_a_row() -> None:
    assert {"age", "gpg"} <= {*PACKAGES}
