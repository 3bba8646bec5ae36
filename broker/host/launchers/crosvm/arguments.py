"""crosvm's command line: values in, words out.

Source: src/crosvm/cmdline.rs and src/main.rs of the project (August 2026).  The
machine starts suspended; ``crosvm resume`` on its control socket lets it run.
"""

from __future__ import annotations

from pathlib import Path

from broker.core.errors import SetupError
from broker.host.vmm.qemu_arguments import HOME_SERIAL, VmSpec, agent_args

_ENDS = {
    0: "the guest powered off",
    32: "the guest rebooted",
    33: "the guest crashed",
    34: "the guest's kernel panicked",
    36: "the guest's processors stalled",
}
"""Its exit codes that are the guest's doing."""


def arguments(spec: VmSpec, program: Path, *, control: Path, vsock: Path) -> list[str]:
    """Return the command line of a machine, suspended.

    ``control`` is the socket that crosvm makes, ``vsock`` that of vhost-device-vsock.
    """
    command_line = [
        *(str(program), "run"),
        # Its jail needs namespaces inside ours, which the filter refuses.
        *("--disable-sandbox", "--suspended-vcpus", "--no-usb"),
        *("--socket", str(control)),
        *("--cpus", str(spec.cpus)),
        *("--mem", str(spec.memory_mib)),
        "--balloon-page-reporting",
        *("--serial", "type=stdout,hardware=serial,num=1,console=true"),
        *("--vhost-user", f"type=vsock,socket={_value(vsock)}"),
        *("--initrd", str(spec.initrd)),
    ]
    if spec.root is not None:
        # guard: crosvm's root disk is read-only
        command_line += _disk(spec.root, "vitrail-root", read_only=True)
    if spec.home is not None:
        command_line += _disk(spec.home.path, HOME_SERIAL, read_only=False)
    for tap, seat in spec.taps:
        mac = f',mac="{seat.mac}"' if seat else ""
        command_line += ["--net", f"tap-name={tap}{mac}"]
    return [*command_line, "--params", kernel_args(spec), str(spec.kernel)]


def kernel_args(spec: VmSpec) -> str:
    """Return the kernel's command line; crosvm adds the console's words."""
    return " ".join(("panic=-1", "quiet", *agent_args(spec), *spec.kernel_args))


def _disk(path: Path, name: str, *, read_only: bool) -> list[str]:
    access = "true" if read_only else "false"
    return ["--block", f"path={_value(path)},ro={access},id={name}"]


def _value(path: Path) -> str:
    """Return a path for a comma-separated list.  Raises SetupError."""
    text = str(path)
    # guard: a path is one value of crosvm's options
    if set(text) & set(",=[]\"'\\"):
        raise SetupError(
            f"crosvm does not support the path {text}",
            hint="use a path without commas, quotes, backslashes, brackets or equals signs",
        )
    return text


def guest_end(code: int | None) -> str:
    """Return why the guest ended, by crosvm's exit code; "" if it did not."""
    return "" if code is None else _ENDS.get(code, "")
