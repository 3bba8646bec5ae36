"""OCI hook: leases a container to Vitrail's broker before its program runs.

Called by Podman (oci-hooks(5)) for a container with the annotation
``io.vitrail.sandbox=RECORD``, in two stages:

* ``precreate``: the container's configuration is on standard input, and is written
  to standard output with the directory of its sockets mounted into it.
* ``createRuntime``: its first process exists and has not run anything; the broker
  leases the sandbox to it.

Nothing is to be done at its end: the broker holds a pidfd of the first process.

A container must not fail to start because of us.  So whatever goes wrong, broker
absent, slow or refusing, a malformed state, this process killed, it starts without
display and sound, unless its record says ``required = true`` (or the annotation
``io.vitrail.required=true``): then it does not start.

A container of root's is leased by the broker of the user that ``--settings`` names;
see ``oci_rootful``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional

from shims.hooks.oci_annotations import (
    LAUNCH,
    OURS,
    REQUIRED,
    SANDBOX,
    Json,
    annotations_of,
    command_line_of,
    is_by_file,
    log,
    refuse_annotations_of_image,
    remove_annotations_of_image,
)
from shims.hooks.oci_broker import DEADLINE_SECONDS, RETRY_SECONDS, Broker
from shims.hooks.oci_config import (
    close_namespaces,
    close_pools,
    close_vsock,
    enter,
    limit_file_systems,
    limit_open_files,
    limit_terminals,
)
from shims.hooks.oci_rootful import (
    Person,
    mount_sockets,
    require_confined,
    require_own_namespaces,
    take_person,
    unmount_sockets,
)
from shims.hooks.records import PARENTS, limit_memory, read_record
from shims.hooks.rights import become, give_up_files
from shims.hooks.user_socket import HookError

ALL_IDS = (0, 0, 4294967295)
"""The line of /proc/self/uid_map that says: no user namespace."""
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
LAUNCH_ID = re.compile(r"[0-9a-f]{12}")
YES = {"1", "true", "yes"}
INPUT_BYTES = 16 << 20
LOG_BYTES = 65536


def is_required(annotations: Dict[str, str], records: List[str]) -> bool:
    """Return whether a container must not start without its lease."""
    if annotations.get(REQUIRED, "").lower() in YES:
        return True
    name = annotations.get(SANDBOX, "")
    for _ in range(PARENTS):
        if not NAME.fullmatch(name):
            return False
        launch, name = _read_record(name, records)
        if launch is not None:
            return bool(launch)
    return False


def _read_record(name: str, records: List[str]) -> Json:
    """Return what the first record of this name says, and which one it inherits."""
    for directory in records:
        try:
            words = read_record(Path(directory, name + ".toml"))
        except FileNotFoundError:
            continue
        except OSError as error:
            log(f"cannot read {name}.toml: {error}")
            return None, ""
        return words.required, words.inherits
    return None, ""


# -- stages ---------------------------------------------------------------------------


class Hook:
    """One call of the hook: whose container it is, and the deadline."""

    def __init__(self, words: argparse.Namespace, *, of_root: bool) -> None:
        self.deadline = time.monotonic() + words.seconds
        self.command_line = command_line_of(os.getppid())
        self.records: List[str] = words.records
        self.person: Optional[Person] = None
        self._control: str = words.control or ""
        self.refused = ""
        if words.settings is not None:
            self._take_person(words.settings)
            return
        # guard: a container of root's is leased by root's own hook alone
        if of_root:
            self.refused = "the container runs as root: to install root's hook, run 'sudo brokerctl launcher install podman'"

    def _take_person(self, settings: str) -> None:
        try:
            self.person = take_person(settings)
            self.records, self._control = self.person.records, self.person.control
        except HookError as error:
            self.refused = str(error)

    def broker(self) -> Broker:
        """The broker that leases it."""
        uid = os.geteuid() if self.person is None else self.person.uid
        return Broker(self._control, uid, self.deadline)

    def serve(self, stage: str, text: str) -> str:
        """Do one stage's work; returns its output, raises HookError."""
        if self.refused:
            raise HookError(self.refused)
        document = json.loads(text)
        return STAGES[stage](self, document, annotations_of(document))

    def required(self, annotations: Dict[str, str]) -> str:
        """Return "yes" for a lease that the record requires, else "no"."""
        if self.person is not None:
            # guard: root reads the records of a container's user with the user's rights
            become(self.person.uid)
        # guard: a record takes little memory of a container hook's child
        limit_memory()
        return "yes" if is_required(annotations, self.records) else "no"


def precreate(hook: Hook, config: Json, annotations: Dict[str, str]) -> str:
    """Return the configuration with the sockets' directory; raises HookError."""
    refuse_annotations_of_image(config, annotations, hook.command_line)
    name = annotations[SANDBOX]
    if not NAME.fullmatch(name):
        raise HookError(f"the annotation {SANDBOX} is not the name of a record")
    # A user's broker cannot end root's containers: they are not its own.
    ours = hook.person is None and annotations.get(OURS, "").lower() in YES
    if hook.person is not None:
        require_confined(config)
    request = {"record": name, "ours": ours}
    if is_by_file(annotations, hook.command_line):
        request["by_file"] = True
    answer = hook.broker().call("LaunchPrepare", request, patient=False)
    launch, directory = answer.get("id"), answer.get("directory")
    if not isinstance(launch, str) or not isinstance(directory, str):
        raise HookError("the broker sent a reply without a launch")
    if not LAUNCH_ID.fullmatch(launch):
        raise HookError("the broker sent a reply without a launch")
    if hook.person is not None:
        directory = mount_sockets(hook.person, launch, directory)
    try:
        remove_annotations_of_image(config, hook.command_line)
        enter(config, launch, directory)
        limit_open_files(config, answer.get("open_files"))
        limit_terminals(config)
        if ours:
            limit_file_systems(config)
            close_vsock(config)
            close_pools(config)
            if answer.get("close_namespaces") is not False:
                close_namespaces(config)
    except (KeyError, TypeError, AttributeError) as error:
        if hook.person is not None:
            unmount_sockets(launch)
        raise HookError(f"invalid container configuration: {error!r}") from error
    return json.dumps(config)


def is_roots(uid: int, uid_map: str) -> bool:
    """Return whether the hook runs for root, and not for rootless Podman."""
    return uid == 0 and tuple(int(word) for word in uid_map.split()) == ALL_IDS


def create_runtime(hook: Hook, state: Json, annotations: Dict[str, str]) -> str:
    """Have the broker lease the container's first process; raises HookError."""
    launch = annotations.get(LAUNCH, "")
    if not LAUNCH_ID.fullmatch(launch):
        raise HookError("the container was created without its launch")
    if hook.person is not None:
        unmount_sockets(launch)
        require_own_namespaces(state.get("pid"))
    pid = state.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 1:
        raise HookError("the container's state has no process")
    request = {"id": launch, "leader": pid}
    hook.broker().call("LaunchBind", request, patient=True)
    return ""


STAGES = {"precreate": precreate, "createRuntime": create_runtime}


# -- the process around it --------------------------------------------------------------


def in_child(what: str, work: Callable[[], str], deadline: float) -> Optional[str]:
    """Do the work in a child, whose death or silence is a failure like any other.

    Returns None for a failure; the reason is on standard error.
    """
    read_end, write_end = os.pipe()
    read_log, write_log = os.pipe()
    child = os.fork()
    if child == 0:
        # guard: a container hook's child keeps no output of the hook's
        give_up_files(write_end, write_log)
        code = 1
        try:
            output = work()
            with os.fdopen(write_end, "w") as file:
                file.write(output + "\n")
            code = 0
        except HookError as error:
            log(str(error))
        except BaseException as error:
            log(f"internal error in the hook: {error!r}")
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    os.close(write_log)
    data = _read_all(read_end, deadline)
    os.kill(child, signal.SIGKILL)  # it is ours until it is waited for
    status = _waited(child)
    _show(read_log)
    if data is None or not data.endswith(b"\n"):
        log(f"no {what}" + (" (killed)" if os.WIFSIGNALED(status) else ""))
        return None
    return data[:-1].decode()


def _show(log_end: int) -> None:
    """Print what a child has written, as far as it is there."""
    os.set_blocking(log_end, False)
    try:
        sys.stderr.write(os.read(log_end, LOG_BYTES).decode("ascii", "replace"))
        sys.stderr.flush()
    except BlockingIOError:
        pass  # nothing, and the child lives
    finally:
        os.close(log_end)


def _waited(child: int) -> int:
    """Return the status of a killed child, without waiting if it hangs.

    In a file system of the user's, it ends when that answers.
    """
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            return status
        time.sleep(RETRY_SECONDS)
    return signal.SIGKILL


def _read_all(fd: int, deadline: float) -> Optional[bytes]:
    data = b""
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                return None
            more = os.read(fd, 65536)
            if not more:
                return data
            data += more
    finally:
        os.close(fd)


def without_launch(text: str) -> str:
    """Return the configuration as it came, without a launch that is not from us."""
    try:
        config = json.loads(text)
        if config["annotations"].pop(LAUNCH, None) is None:
            return text
        return json.dumps(config)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return text


def lease(hook: Hook, stage: str, text: str, annotations: Dict[str, str]) -> Json:
    """Return the stage's output, None without a lease, and whether one is required."""
    if SANDBOX not in annotations:
        log(f"no annotation {SANDBOX} found: starting without Vitrail")
        return None, False
    # Read by a separate process: a user's file must not hold root up.
    answer = in_child("record", lambda: hook.required(annotations), hook.deadline)
    output = in_child(
        f"lease at {stage}", lambda: hook.serve(stage, text), hook.deadline + 1
    )
    by_annotation = annotations.get(REQUIRED, "").lower() in YES
    # Without an answer it is not known what the record says.
    # guard: a record on which a container hook's child dies is required
    return output, by_annotation or answer != "no"


def serve_container(words: List[str]) -> int:
    """Serve one stage; returns 1 only where a required lease is not to be had."""
    parser = argparse.ArgumentParser(description="OCI hook of Vitrail, for Podman")
    parser.add_argument("stage", choices=sorted(STAGES))
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--control", metavar="PATH")
    whose.add_argument("--settings", metavar="PATH")
    parser.add_argument("--records", action="append", default=[], metavar="DIRECTORY")
    parser.add_argument("--seconds", type=float, default=DEADLINE_SECONDS)
    options = parser.parse_args(words)
    text = sys.stdin.buffer.read(INPUT_BYTES).decode("utf-8", "surrogateescape")
    try:
        annotations = annotations_of(json.loads(text))
    except (ValueError, RecursionError):
        annotations = {}
    of_root = is_roots(os.geteuid(), Path("/proc/self/uid_map").read_text())
    output: Optional[str] = None
    required = False
    if options.settings is not None and not of_root:
        # Rootless Podman reads root's hooks, too, and has its own.
        output = text if options.stage == "precreate" else ""
    else:
        hook = Hook(options, of_root=of_root)
        output, required = lease(hook, options.stage, text, annotations)
    # guard: a required lease stops the container
    if output is None and required:
        log("cannot start the container: its record requires a lease")
        return 1
    if options.stage == "precreate":
        plain = without_launch(text) if output is None else output
        sys.stdout.buffer.write(plain.encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    return 0
