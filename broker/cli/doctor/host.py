"""The host's half of ``brokerctl doctor``: kernel, machines, images."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import socket
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from broker.cli import render
from broker.cli.doctor.finding import Context, Finding, fail, ok, warn
from broker.cli.images.building import build_room
from broker.cli.images.installed import list_images
from broker.core import limits
from broker.core.distribution import (
    install_command,
    read_system,
    selinux_mode,
)
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.paths import find_paths
from broker.core.services import PORTS
from broker.helpers import apparmor, landlock
from broker.helpers.process.spawn import run_tool
from broker.host.images.store import DEFAULT_NAME, HOST_IMAGE
from broker.host.launchers.bubblewrap.subordinate import subordinate_namespace
from broker.host.vmm import accel, hosttools
from broker.host.vmm.vsock_backend import hybrid_environment
from broker.ipc.control import client
from broker.ipc.in_thread import in_thread
from broker.net.peers import credentials, peer_process

_OLD_IMAGE_SECONDS = 30 * 86400.0
_PASST_KEEPS_STEP = "2024_08_06"
"""The first release that remembers a frame of which it has read a part."""
_LOGGED = Path("/proc/sys/kernel/seccomp/actions_logged")
_STATE_FREE_BYTES = 256 << 20


async def check_user(context: Context) -> Sequence[Finding]:
    """Check that the user is not root."""
    del context
    user = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        return [
            warn(
                "user",
                "this user is root; brokers and compositors run as an ordinary user",
                "run 'brokerctl doctor' as the user of the desktop session",
            )
        ]
    return [ok("user", f"{user} is an ordinary user")]


async def check_system(context: Context) -> Sequence[Finding]:
    """Check which distribution this is, and which security modules restrict programs."""
    del context
    system = read_system()
    text = f"{system.name}{', an image-based system' if system.image_based else ''}"
    if mode := selinux_mode():
        text += f"; SELinux is {mode}"
    if apparmor.restricts_namespaces():
        text += "; AppArmor restricts unprivileged user namespaces"
    if system.distribution:
        return [ok("system", text)]
    mend = (
        "hints name packages by their upstream projects; find them in your package "
        "manager"
    )
    return [warn("system", f"{text}: its package names are unknown", mend)]


async def check_runtime(context: Context) -> Sequence[Finding]:
    """Check the owner, mode and length of the runtime directory."""
    find_paths(context.environ)
    run = Path(context.environ["XDG_RUNTIME_DIR"])
    mend = f"sudo install -d -m 700 -o $USER {run}"
    try:
        info = run.stat()
    except FileNotFoundError:
        return [fail("runtime directory", f"{run} does not exist", mend)]
    if info.st_uid != os.geteuid():
        mend = "log in as this user, without su or sudo, which keep XDG_RUNTIME_DIR"
        return [fail("runtime directory", f"{run} belongs to another user", mend)]
    if stat.S_IMODE(info.st_mode) & 0o077:
        return [
            fail(
                "runtime directory",
                f"other users can access {run}",
                f"chmod 700 {run}",
            )
        ]
    return [ok("runtime directory", str(run))]


async def check_kernel(context: Context) -> Sequence[Finding]:
    """Check which interfaces for identifying peers the kernel has."""
    del context
    release = os.uname().release
    lacks = []
    if not _has_peerpidfd():
        lacks.append(
            "SO_PEERPIDFD (Linux 6.5), so peers are identified by the private "
            "directory of their socket and the PID of a process that still runs"
        )
    pidfd = os.pidfd_open(os.getpid())
    try:
        if not credentials.pid_namespaces(pidfd):
            lacks.append(
                "PID namespaces of a pidfd (Linux 6.11), so containers of other "
                "launchers are refused"
            )
    finally:
        os.close(pidfd)
    if lacks:
        return [
            warn(
                "kernel",
                f"{release} lacks {'; and '.join(lacks)}",
                "boot Linux 6.11 or later (on Debian 12: from backports)",
            )
        ]
    return [
        ok(
            "kernel",
            f"{release}: peers are identified by their pidfd",
        )
    ]


def _has_peerpidfd() -> bool:
    one, other = socket.socketpair()
    with one, other:
        try:
            pidfd = one.getsockopt(socket.SOL_SOCKET, peer_process.SO_PEERPIDFD)
        except OSError:
            return False
        os.close(pidfd)
    return True


async def check_namespaces(context: Context) -> Sequence[Finding]:
    """Check the namespaces of jails by creating them.

    Runs unshare(1), whose namespaces end with it.
    """
    del context
    argv = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--net"]
    try:
        await run_tool([*argv, "--ipc", "--uts", "--cgroup", "--fork", "true"])
    except UpstreamError as error:
        text = (
            f"user namespaces do not work, so jails cannot be created: {error.message}"
        )
        return [fail("namespaces", text, apparmor.namespaces_hint())]
    return [
        ok("namespaces", "user, mount, pid, net, ipc, uts and cgroup: all work"),
        *_check_profile(),
    ]


def _check_profile() -> Sequence[Finding]:
    """Check whether AppArmor confines this program, if the kernel has AppArmor."""
    label = apparmor.own_label()
    if not label:
        return []
    if label.startswith(apparmor.PROFILE):
        return [ok("AppArmor", f"our profile is loaded; this program's is '{label}'")]
    text = (
        f"this program's profile is '{label}', not ours, so no process of Vitrail has "
        "its own"
    )
    if apparmor.FILE.exists():
        return [warn("AppArmor", text, f"load our profile: {apparmor.LOAD_COMMAND}")]
    return [ok("AppArmor", f"{text}; Vitrail's package has one for each")]


async def check_audit_queue(context: Context) -> Sequence[Finding]:
    """Check whether programs may record each of their calls in the kernel's audit queue.

    A filter that a program gives itself may (SECCOMP_RET_LOG); seccomp(2).
    """
    del context
    try:
        logged = _LOGGED.read_text(encoding="ascii").split()
    except OSError:
        return []  # a kernel without the file records nothing, or is not asked
    if "log" not in logged:
        return [ok("audit queue", "programs cannot fill the kernel's audit queue")]
    others = " ".join(action for action in logged if action != "log")
    text = (
        "every program, also in a box, can fill the kernel's audit queue; to prevent "
        f"this, run 'sudo sysctl kernel.seccomp.actions_logged=\"{others}\"'"
    )
    return [ok("audit queue", text)]


async def check_landlock(context: Context) -> Sequence[Finding]:
    """Check for Landlock, between the user's files and the process that decides."""
    del context
    if version := landlock.version():
        return [
            ok(
                "landlock",
                f"version {version}: the authority and the viewer can open only "
                "their own files",
            )
        ]
    text = (
        "the kernel has no Landlock: a compromised authority or viewer could open "
        "your files"
    )
    return [
        warn(
            "landlock",
            text,
            "boot Linux 5.13 or later, with 'landlock' in the kernel parameter lsm=",
        )
    ]


async def check_bubblewrap(context: Context) -> Sequence[Finding]:
    """Check bubblewrap, which jails QEMU and vhost-device-vsock.

    Runs bwrap(1) with an empty jail, and a child that holds a user namespace for a
    moment.
    """
    del context
    mend = install_command("bubblewrap")
    if shutil.which("bwrap") is None:
        return [fail("bubblewrap", "bwrap is not installed", mend)]
    version = (await run_tool(["bwrap", "--version"])).decode(errors="replace").strip()
    try:
        argv = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
        await run_tool(argv)
    except UpstreamError as error:
        return [fail("bubblewrap", error.message, apparmor.namespaces_hint())]
    with ExitStack() as stack:
        own = subordinate_namespace(stack, (os.getuid(), os.getgid()))
    ids = "boxes that do not access your files have their own user ID"
    if own is None:
        package = read_system().package_name("uidmap")
        ids = (
            "boxes have your user ID; a separate one needs newuidmap (package "
            f"{package}), your own range in /etc/subuid and /etc/subgid, and a bwrap "
            "that is not setuid"
        )
    return [
        ok(
            "bubblewrap",
            f"{version} can create a jail; {ids}",
        )
    ]


async def check_qemu(context: Context) -> Sequence[Finding]:
    """Check QEMU, which runs micro VMs."""
    del context
    name = f"qemu-system-{os.uname().machine}"
    if shutil.which(name) is None:
        package = "x86" if os.uname().machine == "x86_64" else "arm"
        mend = install_command(f"qemu-system-{package}")
        return [fail("QEMU", f"{name} is not installed", mend)]
    said = await run_tool([name, "--version"])
    return [ok("QEMU", said.decode(errors="replace").splitlines()[0])]


async def check_kvm(context: Context) -> Sequence[Finding]:
    """Check KVM with the launcher's test, which boots a guest.

    The launcher keeps the answer; this tests again, which takes up to
    ``limits.KVM_PROBE_SECONDS`` for each machine type.
    """
    qemu = shutil.which(f"qemu-system-{os.uname().machine}")
    images = list_images(context.paths)
    if qemu is None or not images:
        missing = accel.permission()
        if missing is not None:
            return [_emulated(missing)]
        text = (
            f"{accel.DEVICE} can be opened; the first run tests whether a guest boots"
        )
        return [ok("KVM", text)]
    choice = await accel.choose_accel(
        Path(qemu),
        images[0].kernel,
        images[0].initrd,
        cache=context.paths.cache,
        environ=context.environ,
        again=True,
    )
    if choice.accel.uses_kvm:
        return [ok("KVM", choice.reason)]
    return [_emulated(choice)]


def _emulated(choice: accel.AcceleratorChoice) -> Finding:
    text = f"{choice.reason}: machines are emulated, which is slower"
    return warn("KVM", text, choice.hint)


async def check_vsock(context: Context) -> Sequence[Finding]:
    """Check the vsock device, or start the program that replaces it for its version."""
    device = hosttools.KERNEL_DEVICE
    if hosttools.kernel_vsock_usable():
        return [ok("vsock", f"{device} can be used")]
    why = "cannot be opened by this user" if device.exists() else "does not exist"
    tool = hosttools.find_vhost_device_vsock(context.paths)
    mend = "sudo modprobe vhost_vsock" if not device.exists() else ""
    mend = mend or f"sudo setfacl -m u:$USER:rw {device}"
    if tool is None and shutil.which("apt-get") is None:
        text = f"{device} {why}, and {hosttools.VHOST_DEVICE_VSOCK} is not installed"
        mend += f"; or {install_command(hosttools.VHOST_DEVICE_VSOCK)}"
        return [fail("vsock", f"{text}: machines cannot start", mend)]
    if tool is None:
        text = (
            f"{device} {why}; the first run, or 'brokerctl link vsock', downloads "
            f"{hosttools.VHOST_DEVICE_VSOCK}"
        )
        return [warn("vsock", text, mend)]
    said = await run_tool([tool, "--version"])
    version = said.decode(errors="replace").strip()
    text = f"{device} {why}; {version} ({tool}) is used instead"
    if not hybrid_environment():
        text += (
            "; it blocks if a stream is full in both directions: the module that "
            "prevents this was not built"
        )
        return [
            warn(
                "vsock",
                text,
                f"{install_command('gcc', 'python3-dev')}; then reinstall Vitrail",
            )
        ]
    return [ok("vsock", text)]


async def check_ports(context: Context) -> Sequence[Finding]:
    """Check that the AF_VSOCK ports are free, or used by this user's broker."""
    if not hosttools.kernel_vsock_usable():
        return [ok("ports", "not used: every sandbox has its own sockets")]
    taken = [
        f"{port} ({service})"
        for service, port in PORTS.items()
        if not await _port_is_free(port)
    ]
    if not taken:
        return [
            ok(
                "ports",
                f"vsock {', '.join(map(str, PORTS.values()))}: free",
            )
        ]
    text = f"vsock ports in use: {', '.join(taken)}"
    if await _broker_runs(context):
        return [ok("ports", f"{text}, by this user's broker")]
    mend = (
        "to find the program, run 'sudo ss --vsock --listening --processes'; then end "
        "it"
    )
    return [fail("ports", text, mend)]


async def _port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((socket.VMADDR_CID_ANY, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


async def _broker_runs(context: Context) -> bool:
    try:
        async with client.open_client(context.paths.control):
            return True
    except SetupError:
        return False


async def check_network(context: Context) -> Sequence[Finding]:
    """Check that passt and its library are there, which sandboxes with a network need.

    Runs ``passt --version``.
    """
    # Late: most verbs have no use for networks.
    from broker.host.network.passt import port_library

    del context
    passt = shutil.which("passt")
    if passt is None:
        text = 'passt is not installed: sandboxes with network = "user" cannot start'
        return [warn("network", text, install_command("passt"))]
    try:
        port_library()
    except SetupError as error:
        return [warn("network", error.message, error.hint)]
    said = (await run_tool([passt, "--version"])).decode(errors="replace")
    return [ok("network", passt_words(said))]


def passt_words(version: str) -> str:
    """Return the text of the finding about passt, from its ``--version``."""
    found = re.search(r"\b20\d\d_\d\d_\d\d\b", version.partition("\n")[0])
    if found is None or found[0] < _PASST_KEEPS_STEP:
        return (
            "passt is installed, but is older than August 2024 or of unknown version, "
            "and might misinterpret a frame boundary; only Vitrail's own filter "
            "prevents this"
        )
    return "passt is installed"


async def check_image_tools(context: Context) -> Sequence[Finding]:
    """Check the tools that build images; a failure only if there is no image."""
    try:
        container = await build_room.check_machine()
    except VitrailError as error:
        judge = warn if list_images(context.paths) else fail
        return [judge("image tools", str(error), error.hint)]
    if container:
        text = (
            f"mmdebstrap is not installed; Podman builds in a container of {container}"
        )
        return [ok("image tools", text)]
    return [ok("image tools", "mmdebstrap and its dependencies are installed")]


async def check_images(context: Context) -> Sequence[Finding]:
    """Check the images and their age."""
    images = list_images(context.paths)
    if not images:
        mend = f"brokerctl image build {DEFAULT_NAME}"
        return [
            warn("images", "there are no images yet; the first run builds one", mend)
        ]
    found: list[Finding] = []
    for image in images:
        age = image.age()
        text = f"{image.name}: {image.suite}, {age / 86400:.0f} days old"
        text += f", waypipe {image.waypipe}"
        if age > _OLD_IMAGE_SECONDS:
            mend = "brokerctl image rebuild (builds every image again)"
            if image.manifest.source and image.name != HOST_IMAGE:
                mend = f"brokerctl image import ARCHIVE {image.name}"
            text += "; it lacks newer versions of its packages"
            found.append(warn("images", text, mend))
        else:
            found.append(ok("images", text))
    return found


async def check_disk(context: Context) -> Sequence[Finding]:
    """Check the free space for the audit log and for an image."""
    findings: list[Finding] = []
    needs = (
        ("the audit log", context.paths.state, _STATE_FREE_BYTES, fail),
        ("an image", context.paths.cache, limits.IMAGE_FREE_BYTES, warn),
    )
    for what, path, need, judge in needs:
        there = _existing(path)
        usage = await in_thread(shutil.disk_usage, there)
        text = f"{render.size(usage.free)} free for {what} ({there})"
        if not os.access(there, os.W_OK):
            mend = f"to see its owner and mode, run 'ls -ld {there}'"
            findings.append(fail("disk", f"this user cannot write to {there}", mend))
        elif usage.free < need:
            mend = f"free some space: {render.size(need)} are needed"
            findings.append(judge("disk", text, mend))
        else:
            findings.append(ok("disk", text))
    return findings


def _existing(path: Path) -> Path:
    """Return the nearest existing directory."""
    while not path.exists():
        path = path.parent
    return path
