"""The guards between a sandbox and the processes that serve several of them.

``python -m tests.kit.guards.boundaries [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

GUARDS = (
    Guard("a start is within its record", "if False:", "tests/broker/host/test_microvms.py", "never_has_more"),
    Guard("a start has no network that its record has not", "if False:", "tests/broker/host/test_microvms.py", "never_has_more"),
    Guard("a machine that runs is not changed", "if False:", "tests/broker/host/test_role.py", "is_not_changed"),
    Guard("a guest that exceeds the window fills no memory", "if self._ended:", "tests/broker/viewer/sandboxes/test_run_progress.py", "window_at_most"),
    Guard("a second program changes no machine", "if False:", "tests/broker/viewer/test_runner.py", "second_program"),
    Guard("the acceptor keeps a container's sockets", "fds = [conn.fileno()] + ([pidfd] if pidfd >= 0 else [])", "tests/attack/test_last_references.py", "container"),
    Guard("a worker sends no descriptor", "", "tests/integration/test_worker.py", "no_way_to_send"),
    Guard("a worker's content has a size", "", "tests/integration/test_worker.py", "its_size_for_good"),
    Guard("a worker's messages have a length", "if not length:", "tests/integration/test_worker.py", "too_long_ends"),
    Guard("who is connected to sends no descriptor", "", "tests/attack/test_last_references.py", "far_end"),
    Guard("who connects sends no descriptor", "", "tests/attack/test_last_references.py", "far_end"),
    Guard("the pump names what fcntl does", "ARGUMENTS: tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...] = (('ioctl', ((1, _WHOLE, _FIONBIO),)), ('fcntl', ()), ('fcntl', ((1, _WHOLE, fcntl.F_SETFD),)), ('fcntl', ((1, _WHOLE, fcntl.F_GETFL),)), ('fcntl', ((1, _WHOLE, fcntl.F_SETFL), (2, fcntl.FASYNC, 0))), ('pipe2', ((1, _WHOLE, os.O_CLOEXEC | os.O_NONBLOCK),)), ('mmap', ((2, _PROT_EXEC, 0),)), ('mprotect', ((2, _PROT_EXEC, 0),)), ('newfstatat', ((3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)))", "tests/attack/test_pump_confined.py"),
    Guard("the pump has no asynchronous descriptor", "ARGUMENTS: tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...] = (('ioctl', ((1, _WHOLE, _FIONBIO),)), ('fcntl', ((1, _WHOLE, fcntl.F_GETFD),)), ('fcntl', ((1, _WHOLE, fcntl.F_SETFD),)), ('fcntl', ((1, _WHOLE, fcntl.F_GETFL),)), ('fcntl', ((1, _WHOLE, fcntl.F_SETFL),)), ('pipe2', ((1, _WHOLE, os.O_CLOEXEC | os.O_NONBLOCK),)), ('mmap', ((2, _PROT_EXEC, 0),)), ('mprotect', ((2, _PROT_EXEC, 0),)), ('newfstatat', ((3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)))", "tests/integration/test_relay_pump.py", "cannot and asynchronous"),
    Guard("the pump maps no code", "ARGUMENTS: tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...] = (('ioctl', ((1, _WHOLE, _FIONBIO),)), ('fcntl', ((1, _WHOLE, fcntl.F_GETFD),)), ('fcntl', ((1, _WHOLE, fcntl.F_SETFD),)), ('fcntl', ((1, _WHOLE, fcntl.F_GETFL),)), ('fcntl', ((1, _WHOLE, fcntl.F_SETFL), (2, fcntl.FASYNC, 0))), ('pipe2', ((1, _WHOLE, os.O_CLOEXEC | os.O_NONBLOCK),)), ('mmap', ()), ('mprotect', ((2, _PROT_EXEC, 0),)), ('newfstatat', ((3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)))", "tests/integration/test_relay_pump.py", "cannot and code"),
    Guard("the pump looks at no path", "ARGUMENTS: tuple[tuple[str, tuple[tuple[int, int, int], ...]], ...] = (('ioctl', ((1, _WHOLE, _FIONBIO),)), ('fcntl', ((1, _WHOLE, fcntl.F_GETFD),)), ('fcntl', ((1, _WHOLE, fcntl.F_SETFD),)), ('fcntl', ((1, _WHOLE, fcntl.F_GETFL),)), ('fcntl', ((1, _WHOLE, fcntl.F_SETFL), (2, fcntl.FASYNC, 0))), ('pipe2', ((1, _WHOLE, os.O_CLOEXEC | os.O_NONBLOCK),)), ('mmap', ((2, _PROT_EXEC, 0),)), ('mprotect', ((2, _PROT_EXEC, 0),)), ('newfstatat', ()))", "tests/integration/test_relay_pump.py", "cannot and look"),
    Guard("what takes away does not wait for the log", "", "tests/attack/test_revoking_fails_open.py"),
    Guard("what is denied is cut before it is recorded", "", "tests/attack/test_revoking_fails_open.py", "slow_log"),
    Guard("what gives waits for the log", "return then", "tests/attack/test_revoking_fails_open.py", "what_gives"),
    Guard("a record that is not on record denies", "then = self._decide(request, self._records(), engine or self._rules.engine)", "tests/attack/test_revoking_fails_open.py", "record_that_denies"),
    Guard("a jailed client's socket is opened once", "return Path(os.readlink(f\"/proc/self/fd/{self.fd}\").removesuffix(\" (deleted)\"))", "tests/attack/test_waypipe_place.py", "link_in_place"),
    Guard("no link in a jailed client's directory", "place = SocketPlace(os.open(path, os.O_PATH | os.O_CLOEXEC))", "tests/attack/test_waypipe_place.py", "link_in_place"),
    Guard("a jailed client listens in a jail", "pass", "tests/attack/test_waypipe_place.py", "outside_of_the_jail"),
    Guard("a lease id is used once", "if False:", "tests/attack/test_link_lease_ids.py", "never_another"),
    Guard("messages about a lease are served in order", "reply = await self._answer(request)", "tests/attack/test_link_lease_ids.py", "ends_last"),
    Guard("a VMM has a system-call filter", "", "tests/attack/test_jail_vmm.py", "filter_refuses"),
    Guard("a VMM has no network", "", "tests/attack/test_jail_vmm.py", "abstract"),
    Guard("a VMM's root is read-only", "", "tests/attack/test_jail_vmm.py", "takes_files"),
    Guard("a VMM's jail is written down before it is built", "", "tests/attack/test_jail_vmm.py", "leaves_nothing and before"),
    Guard("a VMM is written down before it runs", "", "tests/attack/test_jail_vmm.py", "later_broker and after"),
    Guard("a jail that was being built ends whole", "", "tests/attack/test_jail_vmm.py", "later_broker and before"),
    Guard("the process in a jail is bubblewrap's own child", "if False:", "tests/broker/launch/process/test_identity.py", "own_child"),
    Guard("a hook's message is escaped", "return text", "tests/broker/launch/libvirt/test_hook.py", "escaped"),
    Guard("a domain's description chooses no sandbox", "if False:", "tests/broker/host/test_libvirt_guests.py", "description"),
    Guard("one domain at a time is a sandbox", "if False:", "tests/broker/host/test_libvirt_guests.py", "one_domain"),
    Guard("machined answers about the machine that was asked for", "if False:", "tests/broker/host/test_machined.py", "another_reply"),
    Guard("a machine's leader is the process that was registered", "if False:", "tests/broker/host/test_machined.py", "has_the_pid_now"),
    Guard("a machine of another user is not leased", "if False:", "tests/broker/host/test_machined.py", "another_user_is_refused"),
    Guard("machined's socket is served by root", "if False:", "tests/broker/host/test_machined.py", "not_asked"),
    Guard("QEMU's own command line names the domain", "if False:", "tests/broker/host/test_libvirt_guests.py", "command_line"),
    Guard("brokerctl speaks with a broker of its user's", "if False:", "tests/attack/test_control_impostor.py"),
    Guard("a guest proves its launch", "if False:", "tests/attack/test_launch_secret.py", "another_launch"),
    Guard("no byte before the launch is proved", "if False:", "tests/attack/test_launch_secret.py", "another_launch"),
    Guard("each side has its own label", "reply = nonce + secret.proof(b'guest', service, nonces)", "tests/attack/test_launch_secret.py", "reflected or obeys_the_broker"),
    Guard("a proof is for one service", "text = label + b'\\0' + nonces", "tests/attack/test_launch_secret.py", "another_service or obeys_the_broker"),
    Guard("the broker proves the launch", "if False:", "tests/attack/test_launch_secret.py", "does_not_obey"),
    Guard("a guest with a secret asks for the proof", "if True:", "tests/attack/test_launch_secret.py", "does_not_obey"),
    Guard("the broker proves the launch to the files tool", "if False:", "tests/attack/test_launch_secret.py", "other_programs and files"),
    Guard("the broker proves the launch to the devices tool", "if False:", "tests/attack/test_launch_secret.py", "other_programs and devices"),
    Guard("the broker proves the launch to the security key tool", "if False:", "tests/attack/test_launch_secret.py", "other_programs and security"),
    Guard("no launch before the ports are ours", "privileged = False", "tests/attack/test_launch_secret.py", "has_a_secret"),
    Guard("a taken port is an alarm", "if False:", "tests/attack/test_launch_secret.py", "is_named"),
    Guard("a taken port is told", "", "tests/attack/test_launch_secret.py", "event_and_a_notification"),
    Guard("one reading empties the shared backlog", "batch = [await listener.accept()]", "tests/broker/host/test_vsock_listeners.py", "is_its_cid_s"),
    Guard("the runtime directory is ours alone", "return", "tests/attack/test_own_files.py", "runtime_directory or our_directory"),
    Guard("brokerctl looks at the runtime directory", "", "tests/attack/test_own_files.py", "says_nothing_there"),
    Guard("settings are written by root or us alone", "if False:", "tests/attack/test_own_files.py", "settings"),
    Guard("the cursor's file replaces a link", "path.write_text(f'{cursor}\\n')", "tests/attack/test_own_files.py", "place_of_the_cursor"),
    Guard("the cursor's file is read through no link", "flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK", "tests/attack/test_own_files.py", "place_of_the_cursor"),
    Guard("no error drives the terminal", "return text", "tests/attack/test_own_files.py", "drives or programs"),
    Guard("no descriptors without a byte", "", "tests/broker/ipc/test_fdpass.py", "without_a_byte"),
    Guard("a box has no sockets that namespaces do not divide", "", "tests/attack/test_box_sockets.py"),
    Guard("a box has no io_uring", "pass", "tests/attack/test_box_sockets.py"),
    Guard("a box has no keys and no programs of the kernel", "pass", "tests/attack/test_box_sockets.py"),
    Guard("a box types into no terminal", "pass", "tests/attack/test_box_sockets.py"),
)  # fmt: skip


if __name__ == "__main__":
    main(GUARDS)
