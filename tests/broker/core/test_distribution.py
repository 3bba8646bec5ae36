"""Package names and install commands of each distribution."""

from __future__ import annotations

import pytest

from broker.core.distribution import (
    PACKAGES,
    System,
    install_command,
    parse_os_release,
    read_system,
)

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


def test_each_row_has_a_name_for_each_distribution() -> None:
    assert {len(row.split()) for row in PACKAGES.values()} == {5}
    assert list(PACKAGES) == sorted(PACKAGES)


def test_this_system_has_a_command() -> None:
    assert read_system().distribution == "debian"
    assert install_command("passt") == "sudo apt install passt"
