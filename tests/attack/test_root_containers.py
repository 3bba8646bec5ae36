"""A container of root's that is not apart from the machine, and asks for a lease."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.host.launchers.libvirt.hook import install_hook
from tests.kit.hooks import libvirt, rootful

CLOSED = {"allow": False, "access": "rwm"}
# As Podman 4.3 writes it for 'sudo podman run'.
PODMAN = {
    "process": {
        "capabilities": {
            "bounding": [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_SETUID",
                "CAP_SYS_CHROOT",
            ]
        }
    },
    "linux": {
        "namespaces": [
            *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
            {"type": "network", "path": "/run/netns/netns-1"},
        ],
        "resources": {"devices": [CLOSED]},
        "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
        "maskedPaths": ["/proc/kcore", "/proc/keys"],
    },
}


def podman(change=None):
    config = copy.deepcopy(PODMAN)
    if change is not None:
        change(config)
    return config


def refused(change, match):
    with pytest.raises(rootful.HookError, match=match):
        rootful.require_confined(podman(change))


def in_user_namespace(host=200000, group=200000):
    def change(config):
        config["linux"]["namespaces"].append({"type": "user"})
        for kind, first in (("uid", host), ("gid", group)):
            ids = [{"containerID": 0, "hostID": first, "size": 65536}]
            config["linux"][f"{kind}Mappings"] = ids
        config["process"]["capabilities"]["bounding"].append("CAP_SYS_ADMIN")

    return change


def test_podman_s_own_configuration_is_leased():
    rootful.require_confined(podman())
    rootful.require_confined(podman(in_user_namespace()))


@pytest.mark.parametrize("kind", ["pid", "mount", "user"])
def test_container_that_joins_a_namespace_is_refused(kind):
    """--pid=ns:/proc/1/ns/pid was leased: it ended processes of the machine."""

    def change(config):
        kinds = [e for e in config["linux"]["namespaces"] if e["type"] != kind]
        entry = {"type": kind, "path": f"/proc/1/ns/{kind}"}
        config["linux"]["namespaces"] = [*kinds, entry]

    refused(change, f"joins another {kind} namespace")


def test_user_namespace_with_the_machine_s_root_is_refused():
    refused(in_user_namespace(host=0), "maps root of the host")
    refused(in_user_namespace(group=0), "maps root of the host")


@pytest.mark.parametrize(
    "capability", ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_SYS_BOOT", "CAP_OF_LATER"]
)
def test_capability_that_nobody_has_looked_at_is_refused(capability):
    def change(config):
        config["process"]["capabilities"]["bounding"].append(capability)

    refused(change, capability)


def test_container_that_reads_the_machine_s_network_is_refused():
    def change(config):
        kinds = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [e for e in kinds if e["type"] != "network"]
        config["process"]["capabilities"]["bounding"].append("CAP_NET_RAW")

    refused(change, "CAP_NET_RAW")


@pytest.mark.parametrize(
    "rule",
    [
        {"allow": True, "access": "rwm"},
        {"allow": True, "type": "a", "access": "rwm"},
        {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"},
        {"allow": True, "type": "c", "major": 1, "minor": 1, "access": "rw"},
        {"allow": True, "type": "c", "major": 1, "access": "rw"},
        {"allow": True, "type": "b", "major": 226, "minor": 0, "access": "rw"},
    ],
)
def test_device_of_the_machine_is_refused(rule):
    """CAP_MKNOD with a rule for a disk was leased: nobody read the rules."""
    refused(
        lambda config: config["linux"]["resources"]["devices"].append(rule),
        "devices of the host",
    )


@pytest.mark.parametrize("rules", [[], [{**CLOSED, "access": "w"}]])
def test_devices_that_nothing_closes_are_refused(rules):
    refused(
        lambda config: config["linux"]["resources"].update(devices=rules),
        "not denied by default",
    )


def test_devices_that_harm_nobody_are_leased():
    graphics = {"allow": True, "type": "c", "major": 226, "minor": 128, "access": "rwm"}
    null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    made = {"allow": True, "type": "b", "access": "m"}
    rootful.require_confined(
        podman(
            lambda c: c["linux"]["resources"]["devices"].extend([graphics, null, made])
        )
    )


@pytest.mark.parametrize("paths", ["readonlyPaths", "maskedPaths"])
def test_kernel_s_settings_that_can_be_written_are_refused(paths):
    """--security-opt unmask=ALL: user id 0 writes /proc/sys/kernel/core_pattern."""
    refused(lambda config: config["linux"].update({paths: []}), "unmask")


def test_first_process_in_root_s_namespaces_is_refused():
    """Whatever the configuration said."""
    with pytest.raises(rootful.HookError, match="pid namespace"):
        rootful.require_own_namespaces(os.getpid())
    with pytest.raises(rootful.HookError, match="cannot read its"):
        rootful.require_own_namespaces(2**22 + 1)


def test_hook_of_root_s_writes_no_program_beside_it(tmp_path):
    """With umask 000 any user could put a module there, which root ran."""
    shims = Path(rootful.__file__).parent
    name = "vitrail_oci_hook.py"
    (tmp_path / name).write_bytes((shims / name).read_bytes())
    code = (
        "import os, sys; os.umask(0); sys.path.insert(0, sys.argv[1])\n"
        "sys.dont_write_bytecode = True; import vitrail_oci_hook as hook\n"
        "sys.dont_write_bytecode = False\n"
        "from types import SimpleNamespace as S\n"
        "hook.Hook(S(seconds=1, records=[], control=None, settings='/none'), of_root=True)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    words = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(words, check=True, env=env)
    assert [path.name for path in tmp_path.iterdir()] == ["vitrail_oci_hook.py"]


def test_libvirt_s_hook_believes_no_settings_of_others(tmp_path, monkeypatch):
    """With umask 000 anybody chose whose broker root reports each domain to."""
    settings = tmp_path / "etc/hook.json"
    before = os.umask(0)
    try:
        install_hook(1000, tmp_path / "hooks", settings)
    finally:
        os.umask(before)
    assert settings.stat().st_mode & 0o777 == 0o644
    monkeypatch.setattr(libvirt, "SETTINGS", str(settings))
    facts = os.stat_result([0o100644, 0, 0, 1, 0, 0, 9, 0, 0, 0])
    monkeypatch.setattr(libvirt.os, "getuid", lambda: 0)
    monkeypatch.setattr(libvirt.os, "fstat", lambda fd: facts)
    assert libvirt.owner() == 1000
    for mode, uid in ((0o100666, 0), (0o100664, 0), (0o100644, 1000)):
        facts = os.stat_result([mode, 0, 0, 1, uid, 0, 9, 0, 0, 0])
        with pytest.raises(libvirt.HookError, match="users other than root"):
            libvirt.owner()
