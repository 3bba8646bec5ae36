"""The template: a warm process that forks keepers, so that a worker costs little.

Started fresh by exec, it imports all that a worker needs, then waits for
orders on one SEQPACKET socket.  It has one thread and never sees a guest's
byte.  Its death ends no worker: they hold on to the supervisor, not to it;
the supervisor starts another one when it next needs a worker.

The price of forking: all workers of one template share the layout of their
address space, so an attacker who has taken one over knows it for the others.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
import traceback

from broker.helpers.process import jail, seccomp
from broker.ipc import fdpass
from broker.ipc import keeper as keeper_messages
from broker.ipc.wayland_rules import traced
from broker.programs.keeper import Order, keep

_FDS_OF_AN_ORDER = 4


def main() -> None:
    """Serve the socket whose number is the only argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    jail.set_name("vitrail-template")
    # Compiled once; keepers and workers inherit them.
    seccomp.worker_filter()
    seccomp.keeper_filter()
    if traced():
        # Now: a worker that wants it cannot open files any more.
        from broker.jail.wayland.protocol import trace  # noqa: F401
    gc.collect()
    gc.freeze()  # present objects are shared: do not touch them when collecting
    try:
        fdpass.send(control, keeper_messages.encode(keeper_messages.TemplateReady()))
        _Template(control).serve()
    except (BrokenPipeError, ConnectionResetError):
        return  # the supervisor closed and left an answer of ours unread


class _Template:
    """Children by pidfd; the number is the supervisor's for that order."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._keepers: dict[int, tuple[int, int]] = {}
        self._waiting = select.poll()
        self._waiting.register(control.fileno(), select.POLLIN)

    def serve(self) -> None:
        """Return when the supervisor has closed its end."""
        control = self._control.fileno()
        while True:
            ready = {fd for fd, _ in self._waiting.poll()}
            # The dead first: when the supervisor closes after its last worker
            # ended, no child is left for process 1 to reap.
            for pidfd in ready - {control}:
                self._reap(pidfd)
            if control in ready and not self._obey():
                return

    def _reap(self, pidfd: int) -> None:
        number, pid = self._keepers.pop(pidfd)
        self._waiting.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        fdpass.send(
            self._control,
            keeper_messages.encode(keeper_messages.KeeperEnded(number, code)),
        )

    def _obey(self) -> bool:
        got = fdpass.receive(self._control, 65536, _FDS_OF_AN_ORDER)
        if not got.data:
            return False
        fork = keeper_messages.decode_fork(got.data)
        *numbers, pipe = got.fds
        sockets = [socket.socket(fileno=fd) for fd in numbers]
        supervisor, inner, display = sockets
        order = Order(
            supervisor=supervisor,
            worker=inner,
            messages=pipe,
            display=display,
            sandbox=fork.sandbox,
            compositor=fork.compositor,
            allow_unjailed=fork.allow_unjailed,
            clients=fork.clients,
        )
        try:
            pid = os.fork()
        except OSError as error:
            failed = keeper_messages.ForkFailed(fork.number, str(error.strerror))
            fdpass.send(self._control, keeper_messages.encode(failed))
            pid = -1
        if pid == 0:
            self._become_keeper(order)
        for sock in sockets:
            sock.close()
        os.close(pipe)
        if pid > 0:
            pidfd = os.pidfd_open(pid)  # our child, not reaped: the number is its
            self._keepers[pidfd] = (fork.number, pid)
            self._waiting.register(pidfd, select.POLLIN)
            forked = keeper_messages.WorkerForked(fork.number, pid)
            fdpass.send(self._control, keeper_messages.encode(forked), [pidfd])
        return True

    def _become_keeper(self, order: Order) -> None:
        code = 1
        try:
            self._control.close()
            fdpass.close_all(self._keepers)
            keep(order)
            code = 0
        except BrokenPipeError:
            code = 0  # the supervisor has gone, and with it the jailed half's
        except Exception:  # noqa: BLE001
            # No caller can see it: this is the bottom of a forked process.
            traceback.print_exc()
        finally:
            os._exit(code)


if __name__ == "__main__":
    main()
