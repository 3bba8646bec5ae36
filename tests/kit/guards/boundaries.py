"""The guards between a sandbox and the processes that serve several of them.

``python -m tests.kit.guards.boundaries [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("the acceptor keeps a container's sockets", "broker/programs/acceptor.py", "            fds = [theirs.fileno()] + (", "            fds = [conn.fileno()] + (", "tests/attack/test_last_references.py", "container"),
    Guard("a worker sends no descriptor", "broker/ipc/channel.py", "        ours.shutdown(socket.SHUT_RD)\n", "", "tests/integration/test_worker.py", "no_way_to_send"),
    Guard("a worker's content has a size", "broker/ipc/sealed_memfd.py", "        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fixed)\n", "", "tests/integration/test_worker.py", "its_size_for_good"),
    Guard("a worker's messages have a length", "broker/ipc/channel.py", "        if not 0 < length <= limits.WORKER_MESSAGE_BYTES:", "        if not length:", "tests/integration/test_worker.py", "too_long_ends"),
    Guard("who is connected to sends no descriptor", "broker/link/endpoints.py", "    if not descriptors:\n        fdpass.refuse_descriptors(sock)\n", "", "tests/attack/test_last_references.py", "far_end"),
    Guard("who connects sends no descriptor", "broker/link/listeners.py", "            if not descriptors:\n                fdpass.refuse_descriptors(sock)\n", "", "tests/attack/test_last_references.py", "far_end"),
    Guard("the pump names what fcntl does", "broker/relay/confine.py", "    (\"fcntl\", ((1, _WHOLE, fcntl.F_GETFD),)),\n", "    (\"fcntl\", ()),\n", "tests/attack/test_pump_confined.py"),
    Guard("the pump has no asynchronous descriptor", "broker/relay/confine.py", "(1, _WHOLE, fcntl.F_SETFL), (2, fcntl.FASYNC, 0)", "(1, _WHOLE, fcntl.F_SETFL),", "tests/integration/test_relay_pump.py", "cannot and asynchronous"),
    Guard("the pump maps no code", "broker/relay/confine.py", "    (\"mmap\", ((2, _PROT_EXEC, 0),)),\n", "    (\"mmap\", ()),\n", "tests/integration/test_relay_pump.py", "cannot and code"),
    Guard("the pump looks at no path", "broker/relay/confine.py", "((3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)", "()", "tests/integration/test_relay_pump.py", "cannot and look"),
    Guard("what takes away does not wait for the log", "broker/authz/rules.py", "                self.pending = Engine(chosen.rules)\n                self.tightened()\n", "", "tests/attack/test_revoking_fails_open.py"),
    Guard("what is denied is cut before it is recorded", "broker/authz/rules.py", "                self.tightened()\n", "", "tests/attack/test_revoking_fails_open.py", "slow_log"),
    Guard("what gives waits for the log", "broker/authz/evaluator.py", "        return then if _strictness(then) >= _strictness(now) else now", "        return then", "tests/attack/test_revoking_fails_open.py", "what_gives"),
    Guard("a record that is not on record denies", "broker/authz/evaluator.py", "            request, records or self._records(), engine or self._rules.engine", "            request, self._records(), engine or self._rules.engine", "tests/attack/test_revoking_fails_open.py", "record_that_denies"),
    Guard("a jailed client's socket is opened once", "broker/launch/waypipe/client.py", "        return Path(f\"/proc/self/fd/{self.fd}\")", "        return Path(os.readlink(f\"/proc/self/fd/{self.fd}\").removesuffix(\" (deleted)\"))", "tests/attack/test_waypipe_place.py", "link_in_place"),
    Guard("no link in a jailed client's directory", "broker/launch/waypipe/client.py", "os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC", "os.O_PATH | os.O_CLOEXEC", "tests/attack/test_waypipe_place.py", "link_in_place"),
    Guard("a jailed client listens in a jail", "broker/viewer/sandboxes/waypipe.py", "        _require_jailed(conn)\n", "        pass\n", "tests/attack/test_waypipe_place.py", "outside_of_the_jail"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
