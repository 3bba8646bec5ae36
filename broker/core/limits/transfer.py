"""Limits of addresses, file names and files that cross between sandboxes."""

from __future__ import annotations

URL_CHARS = 8192
"""Characters of an address, before and after it is written in ASCII.  Single
sign-on puts up to some 6,000 into one; nothing longer is typed or clicked."""

URL_HOST_CHARS = 253
"""Characters of a host name in ASCII, without the last dot (RFC 1035, 2.3.4)."""

URL_LABEL_CHARS = 63
"""Characters of one label of a host name (RFC 1035, 2.3.4)."""

MAIL_ADDRESSES = 20
"""Recipients that one mailto address may name; the dialog lists them."""

FILE_NAME_BYTES = 255
"""UTF-8 bytes of a file's name: NAME_MAX of Linux."""

CHECK_LINE_BYTES = 1 << 20
"""A line of ``brokerctl open --check --batch``.  Above every other limit here,
so that a value that is too long is answered with that reason."""

TRANSFER_FRAME_BYTES = 1 << 16
"""A message or an entry: 16 names of 255 bytes, each as 6 characters of JSON in
the worst case, fit."""

TRANSFER_DEPTH = 16
"""Directories inside each other.  Deeper trees are source trees and caches, and
each level costs the receiver a descriptor."""

TRANSFERS_PER_SANDBOX = 8
"""Requests of one sandbox at one time; each holds two pipes."""

DELIVERIES_PER_SANDBOX = 2 * TRANSFERS_PER_SANDBOX
"""Maximum number of deliveries from other sandboxes to one sandbox at one time.  A
sender may take as long as it likes for the next byte, so a single sender has half of
these."""

CALLS_PER_SANDBOX = 64
"""Calls of and to one sandbox at one time, each with a stream in the pump.  They may
last as long as the sandbox (an agent with keys), so they are not counted as transfers."""

CALL_JOIN_SECONDS = 10.0
"""Time limit from a call's token to the connection of the program in a container or box
that serves it, and before that for a program that serves calls: the start of one Python
program each.  The other callers of the box wait as long."""

SAVED_AT_ONCE = 16
"""Files that one sandbox may write at one time where the user chose: the tokens of one
dialog's fit into a message."""

CALL_NAME_CHARS = 64
"""Characters of a service's name, and of its argument: as in Qubes' qrexec."""

CALL_COMMAND_BYTES = 4096
"""A service's command line; equals ``policy.limits.SERVICE_COMMAND_BYTES``."""

SECRET_BYTES = 1 << 15
"""Maximum size of one secret of the user: keys and certificates fit.  It is written to
a socket pair whole, before anybody reads."""

SECRET_SECONDS = 120.0
"""Time limit of the desktop's Secret Service, which may ask its user for the keyring's
password."""

SETTINGS_SECONDS = 5.0
"""Time limit of each answer of the desktop's portal about its settings."""

SETTINGS_AGAIN_SECONDS = 10.0
"""Pause until a portal that has exited, or does not run, is called again."""

TRANSFER_PIPE_BYTES = 1 << 20
"""A pipe between two of our processes: the most that pipe(7) lets a user set."""

TRANSFER_READ_BYTES = 1 << 18
"""Read and passed on at a time, by a worker that also draws windows."""

TRANSFER_HEAD_SECONDS = 10.0
"""Time limit from a connection to the whole of its request."""

TRANSFER_STALL_SECONDS = 120.0
"""Seconds without a byte from the sender or read by the receiver after which a transfer
is aborted."""

TRANSFER_TAKE_SECONDS = 60.0
"""Time limit from the start of a program in the target, which already runs, to its
request for the files.  Under emulation a Python program needs some seconds."""

TRANSFER_KEEP_SECONDS = 120.0
"""Time limit from the last byte of a copy to the end of the program that stores it in
the target: as long as a slow disk may delay a single byte before that."""

TRANSFER_CODE_SECONDS = 10.0
"""Time limit from an aborted delivery to the exit code of its program, which is the
reason. The end of a process follows the end of its connection by milliseconds."""

TRANSFER_LINGER_SECONDS = 10.0
"""How long a program that is refused the rest of its files may take to notice.

It reads its answers between two pieces, and that takes a second in a machine without KVM.
"""

OPENED_TOKENS = 64
"""Deliveries of one sandbox that wait to be fetched."""

FOLDER_GUEST_SECONDS = 60.0
"""Time limit for a guest to mount a folder, or to unmount one on request; it may be
emulated."""
FOLDER_REVOKE_SECONDS = 5.0
"""Time limit for a guest to unmount a folder whose permission has ended; then its
server ends."""
DISKS_PER_SANDBOX = 4
MEMORY_MOUNTS_PER_SANDBOX = 8
"""The sum of ``policy.limits.DISKS`` and ``MOUNTS``."""
FIRST_DISK = 8
FIRST_MEMORY = FIRST_DISK + DISKS_PER_SANDBOX
"""Numbers of disks and file systems in memory among a guest's mounts, after its folders."""
DISK_UNPLUG_SECONDS = 30.0
"""Time limit for a guest to release a disk."""

FOLDERS_PER_SANDBOX = 8
"""Shared folders of one sandbox: each is a task, a descriptor and a mount."""
