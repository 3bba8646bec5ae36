"""An emulated machine that plays a host with a GPU: Debian's kernel, and its vgem.

Its root is this machine's own, read-only by 9p, below a file system in memory; so a
command that is run in it has the same programs and this checkout.  It has no network and
no disk.  The kernel is fetched with apt once, as that of ``tinyguest`` is.
"""

from __future__ import annotations

import gzip
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from broker.helpers.process.spawn import run_tool
from tests.kit.vm.tinyguest import cpio
from tests.kit.vm.vhost import keep_modules

# In this order: each needs those before it.
_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev"),
    *("virtio_pci", "9pnet", "9pnet_virtio", "netfs", "fscache", "9p", "overlay"),
    *("drm", "drm_shmem_helper", "vgem"),
)
_CONSOLE = "gpu-host.txt"
_INIT = """\
#!/busybox sh
B=/busybox
for each in devtmpfs:/dev proc:/proc sysfs:/sys tmpfs:/up; do
    $B mount -t ${each%%:*} none ${each##*:}
done
for each in MODULES; do $B insmod /m/$each.ko; done
$B mkdir /up/u /up/w
$B mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,ro,msize=262144 root /low
$B mount -t overlay -o lowerdir=/low,upperdir=/up/u,workdir=/up/w none /new
for each in dev proc sys; do $B mount --move /$each /new/$each; done
for each in tmp run dev/shm; do
    $B mkdir -p /new/$each
    $B mount -t tmpfs -o mode=1777 none /new/$each
done
$B mkdir /new/run/out
$B mount -t 9p -o trans=virtio,version=9p2000.L out /new/run/out
$B chmod 666 /new/dev/dri/* /new/dev/ttyS0
$B cp /do /new/run/do
exec $B switch_root /new /bin/sh -c 'sh /run/do; echo o >/proc/sysrq-trigger; sleep 60'
"""
_DO = """\
exec >/dev/ttyS0 2>&1 </dev/null
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
ip link set lo up
cd @directory
export HOME=/tmp VITRAIL_OUT=/run/out HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis
setpriv --reuid @uid --regid @gid --clear-groups \\
    timeout --kill-after=5 @seconds @command
echo "=END=$?"
"""


async def gpu_host(command: Sequence[str], out: Path, seconds: int) -> tuple[int, str]:
    """Run a command in a new machine; its exit code and output.

    It may write to ``out``, at /run/out, where its console is too.  Raises SetupError without QEMU.
    """
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("no QEMU for x86")
    files = await _kernel()
    do = _DO
    for word, value in (
        ("@directory", shlex.quote(os.getcwd())),
        ("@uid", str(os.getuid())),
        ("@gid", str(os.getgid())),
        ("@seconds", str(seconds)),
        ("@command", shlex.join(command)),
    ):
        do = do.replace(word, value)
    folders = ("dev", "proc", "sys", "m", "low", "up", "new")
    tree: dict[str, bytes | None] = dict.fromkeys(folders)
    tree["busybox"] = Path("/usr/bin/busybox").read_bytes()
    tree["init"] = _INIT.replace("MODULES", " ".join(_MODULES)).encode()
    tree["do"] = do.encode()
    for name in _MODULES:
        tree[f"m/{name}.ko"] = (files / f"{name}.ko").read_bytes()
    with tempfile.NamedTemporaryFile() as initrd:
        initrd.write(gzip.compress(cpio(tree), 1))
        initrd.flush()
        words = _words(files / "vmlinuz", Path(initrd.name), out)
        await run_tool(words, deadline=seconds + 180)
    text = (out / _CONSOLE).read_text(errors="replace")
    before, _, code = text.rpartition("=END=")
    return int(code.split()[0]) if before else -1, text


def _words(kernel: Path, initrd: Path, out: Path) -> list[str]:
    words = ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max", "-smp", "2"]
    words += ["-m", "2G", "-nodefaults", "-display", "none", "-no-reboot"]
    words += [
        "-serial",
        f"file:{out / _CONSOLE}",
        "-kernel",
        str(kernel),
        "-initrd",
        str(initrd),
    ]
    words += ["-append", "console=ttyS0 quiet no_timer_check panic=-1 mitigations=off"]
    for name, path, more in (("root", "/", ",readonly=on"), ("out", str(out), "")):
        share = f"local,id={name},path={path},security_model=none,multidevs=remap"
        words += ["-fsdev", share + more]
        words += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
    return words


async def _kernel() -> Path:
    """Return a directory with Debian's usual kernel and those modules."""
    said = await run_tool(["apt-cache", "depends", "linux-image-amd64"], deadline=60)
    names = {w for w in said.decode().split() if w.startswith("linux-image-6")}
    name = min(names)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    target = Path(base) / "vitrail" / "tests" / f"gpu-host-{name}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        scratch = Path(folder)
        await run_tool(["apt-get", "download", name], cwd=scratch, deadline=300)
        (package,) = scratch.glob("*.deb")
        await run_tool(["dpkg", "-x", package, scratch / "x"], deadline=120)
        made = scratch / "made"
        made.mkdir()
        (kernel,) = (scratch / "x" / "boot").glob("vmlinuz-*")
        shutil.copy(kernel, made / "vmlinuz")
        keep_modules(scratch / "x", _MODULES, made, target)
    return target
