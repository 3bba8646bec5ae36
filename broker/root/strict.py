"""Strict mode: no driver of this machine binds to a device before its verdict.

``authorized_default`` of each USB host controller is 0 meanwhile
(Documentation/usb/authorization.rst): a device is described, its strings and
descriptors can be read, and it has no interfaces.  A device that was plugged in before
stays authorized, or the machine's own keyboard would be gone.

These switches are the machine's, and the services of several users set them.  So what
they were is in a file of root's, written before the first change and removed by the
last service that needs it; whoever needs it keeps it locked (flock(2)), so that what a
killed one left is seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.stderr_log import log_stderr
from broker.root.sysfs import DEVICES, ports

_DEFAULT = "authorized_default"


class StrictMode:
    """The switches of the machine's USB, for one service of possibly several."""

    def __init__(self, shared: Path, root: Path = DEVICES) -> None:
        self._shared, self._root = shared, root
        self._before = shared / "strict"
        self._switch, self._probes = shared / "autoprobe", shared / "binding"
        self._held = -1

    def set(self, *, wanted: bool) -> None:
        """Enter or leave strict mode.

        The last service to leave restores the first values.

        Raises SetupError when the first values cannot be written down.
        """
        if wanted == (self._held >= 0):
            return
        try:
            self._shared.mkdir(mode=0o755, parents=True, exist_ok=True)
            with _locked(self._shared / "lock"):
                if wanted:
                    self._held = os.open(
                        self._before, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644
                    )
                    fcntl.flock(self._held, fcntl.LOCK_SH)
                    self._close_controllers()
                else:
                    os.close(self._held)
                    self._held = -1
                    self._restore()
        except OSError as error:
            raise SetupError(
                f"cannot turn strict mode of USB {'on' if wanted else 'off'}: "
                f"{error.strerror}",
                where=str(self._shared),
            ) from error

    def follow(self) -> None:
        """Switch a controller that came later to strict, if the mode is on."""
        if self._held < 0:
            return
        try:
            with _locked(self._shared / "lock"):
                self._close_controllers()
        except OSError as error:
            log_stderr(f"vitrail-devices: cannot secure a controller: {error.strerror}")

    def is_on(self) -> bool:
        """Return whether sysfs shows every controller strict.

        Another service may be why.
        """
        values = [_read(file) for file in self._controllers()]
        return bool(values) and all(value == "0" for value in values)

    def recover(self) -> None:
        """Restore what killed services left changed, unless a service needs it."""
        if not self._shared.is_dir():
            return
        with _locked(self._shared / "lock"):
            self._restore()
        with _locked(self._probes):
            self._probe_again(lambda _: False)

    def _controllers(self) -> list[Path]:
        return sorted(found / _DEFAULT for found in self._root.glob("usb*"))

    def _close_controllers(self) -> None:
        """Note the controllers' first values, and stop automatic authorization."""
        noted = {line.split()[0] for line in self._before.read_text().splitlines()}
        for file in self._controllers():
            value, name = _read(file), file.parent.name
            if value == "0" and name in noted:
                continue
            # guard: strict mode's first values are noted before they are changed
            if name not in noted:
                os.write(self._held, f"{name} {value or '1'}\n".encode("ascii"))
            _set(file, "0")

    def _restore(self) -> None:
        """Write the noted first values back, unless a service needs strict mode."""
        try:
            fd = os.open(self._before, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            # guard: strict mode lasts as long as a service needs it
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            for line in self._before.read_text().splitlines():
                name, value = line.split()
                if (self._root / name / _DEFAULT).exists():
                    _set(self._root / name / _DEFAULT, value)
            self._before.unlink()
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def no_driver_binds(self, is_taken: Callable[[str], bool]) -> Iterator[None]:
        """Keep this machine's drivers from a device that is authorized for another one.

        Authorizing creates the interfaces, and drivers bind to them at once; QEMU takes
        an interface from its driver only later.  A device that is plugged in meanwhile
        is probed at the end, but not one that ``is_taken``.  The switch is the whole
        bus's: one caller of the machine at a time; to be called in a thread.
        """
        if not self.is_on():
            yield
            return
        with _locked(self._probes):
            if not self._switch.exists():
                autoprobe = _read(self._root.parent / "drivers_autoprobe")
                self._switch.write_text(autoprobe or "1", encoding="ascii")
            _set(self._root.parent / "drivers_autoprobe", "0")
            try:
                yield
            finally:
                self._probe_again(is_taken)

    def _probe_again(self, is_taken: Callable[[str], bool]) -> None:
        """Let drivers probe devices plugged in meanwhile; not those ``is_taken``."""
        if not self._switch.exists():
            return
        bus = self._root.parent
        # guard: an empty note, of a full disk, is not the switch's first value
        before = self._switch.read_text(encoding="ascii") or "1"
        _set(bus / "drivers_autoprobe", before)
        for port in ports(self._root):
            # guard: no driver gets a device that another service is handing over
            if not is_taken(port) and not (self._root / port / "driver").exists():
                _set(bus / "drivers_probe", port)
        self._switch.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the block runs."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _set(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="ascii")
    except OSError as error:
        log_stderr(f"vitrail-devices: cannot write {file}: {error.strerror}")
