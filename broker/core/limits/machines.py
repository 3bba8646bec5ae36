"""Limits of micro VMs, of workers and their jails, of guest images."""

from __future__ import annotations

from broker.core.limits.peers import AGENT_FRAME_BYTES

# -- micro VMs ---------------------------------------------------------------------

QMP_LINE_BYTES = 1 << 18
"""Maximum size of one line from QEMU.  Answers to Vitrail's requests have a few KiB;
the whole QMP schema, which is not requested, is 200 KiB."""

QMP_READ_BYTES = 1 << 13
"""Bytes of QEMU that are decoded before other tasks run: 600 of the shortest events,
which take 5 ms."""

QMP_BYTES_PER_SECOND = 1 << 17
"""QEMU's monitor is read no faster for long.  A machine's start and end and a device take
a few KiB each; a flood of the shortest events takes a fourteenth of a processor."""

QMP_BURST_BYTES = 1 << 18
"""Bytes that are read at once: one line of the maximum length."""

QMP_EVENTS = 64
"""Events that wait for their reader; a guest causes events, so more are dropped."""

QMP_GREETING_SECONDS = 10.0
"""Time limit from connecting to QEMU's greeting; it takes 0.6 s on a loaded machine."""

QMP_ANSWER_SECONDS = 10.0
"""Time limit of an answer to a command; answers take milliseconds, 60 ms next to a busy
vCPU."""

VMLINUX_BYTES = 1 << 28
"""A kernel that was unpacked; Debian's has 58 MB."""

VM_READY_SECONDS = 10.0
"""Time limit from starting a helper (vhost-device-vsock) to its socket;
milliseconds."""

VM_QUIT_SECONDS = 2.0
"""Time for QEMU to end after 'quit' or SIGTERM, before SIGKILL."""

RENDERER_END_SECONDS = 5.0
"""Time limit for the end of a killed process that renders for a machine: a process that
waits in the GPU's driver ends when the driver gives up on its job, or never."""

VM_ROOM_SECONDS = 10.0
"""Pause after which a machine that QEMU stopped because the disk was full is
resumed."""

HOME_RESERVE_BYTES = 128 << 20
"""Free bytes of the file system of a home at which its machine is stopped."""
HOME_BYTES_PER_SECOND = 1 << 31
"""What a guest writes into its home at most, for the time between two looks."""
HOME_ROOM_SECONDS = (0.05, 5.0)
"""Least and greatest time between two looks at that file system."""

VM_DRAIN_SECONDS = 0.5
"""Time to read a machine's monitor and console to their end after QEMU has ended."""

CONSOLE_BYTES_PER_SECOND = 1 << 18
"""A guest's console is read no faster; QEMU holds the guest back beyond it.
Booting writes 30 KiB, so only a guest that floods notices."""

FIRST_WORDS_BYTES = 1 << 16
"""Bytes kept of a helper's standard error: the first ones explain why it did not
start, and a guest may cause any number of later ones."""

VM_MEMORY_MIB = range(128, 65537)
"""A guest's memory: Debian's kernel and initramfs do not unpack in less; more
than 64 GiB on a desktop is a slip of the finger."""

MACHINES_PER_ORIGIN = 8
"""Machines that run because sandboxes of one record, or others that were started for
them, opened something: a user who reads mail has some links open at once, each in a
disposable.  With the default memory they are 6 GiB."""

MACHINE_FREE_BYTES = 1 << 30
"""Memory that stays available after a sandbox has started a machine: the same as after
the start of a machine in reserve."""

VM_CPUS = range(1, 65)
"""A guest's processors."""

PARENT_SECONDS = 86400.0
"""Age of a parent: copies share the addresses of its kernel, which are drawn
again when it is made again."""

PARENT_MAKE_SECONDS = 600.0
"""Time limit for booting a parent and running its program once, on a busy machine."""

PARENT_DELAY_SECONDS = 15.0
"""Pause from a plain boot to the start of a parent: the user's window comes first."""

PARENT_FREE_BYTES = 1 << 30
"""Memory and disk that must be free in addition to the machine's own size."""

FORK_SECONDS = 5.0
"""Time limit from the start of a copy to its report that it is linked: 0.3 s on a quiet
emulated machine.  Booting instead takes longer than this."""

FORK_FAILURES = 2
"""In a row; then the record boots."""

FORK_PAUSE_SECONDS = 600.0
"""Pause from the last failure to the next attempt: what made copies slow, mostly a busy
machine, has passed by then.  If it has not, a start loses FORK_SECONDS once in that
time."""

STANDBY_DELAY_SECONDS = 10.0
"""Pause from a start to the next machine in reserve: the user's window comes first, and
a rehearsal takes as much of a processor as that window."""
STANDBY_SECONDS = 90.0
"""Time limit for loading a machine in reserve and its rehearsal, which the guest ends
after 60 s."""
STANDBY_FREE_BYTES = 1 << 30
"""Memory that stays available; with less, no machine waits."""
STANDBY_LOOK_SECONDS = 10.0
STANDBY_PAUSE_SECONDS = 60.0
"""Pause from a shortage of memory to the next machine in reserve."""
"""Copies of a record that fail in a row before it boots plainly until the broker
is started again."""

HOME_MAKE_SECONDS = 60.0
"""Making an empty file system; a tenth of a second on a quiet disk."""
HOME_ENCRYPT_SECONDS = 300.0
"""Time limit of one command of an encrypted home: a second or two, because QEMU
measures how fast this machine is, and many times that on a busy machine."""

FRAME_BYTES = 65536 + 14
"""An Ethernet frame of a guest.  passt announces an MTU of at most 65520, and
no IPv4 packet is longer than 65535."""

FRAMES_READ_BYTES = 1 << 18
"""Size of one read of the frame filter, and of its buffer in each direction: four of
the largest frames, so that a small read never waits twice for a large frame."""

FRAMES_SEND_BYTES = 32000
"""The bytes that are written to passt at once, unless one frame is longer: whole frames that the
kernel keeps in one buffer.  A buffer of a UNIX stream has 32 KiB and more of pages, and
at most half of SO_SNDBUF."""

FRAMES_SOCKET_BYTES = 1 << 17
"""SO_SNDBUF of the socket to passt: more than twice the half of the longest frame
(FRAME_BYTES), so that no setting of the machine makes the kernel cut a send."""

RANDOM_CID_FIRST = 1 << 16
RANDOM_CID_LAST = (1 << 31) - 1
"""CIDs we draw from: above the small numbers that other launchers count from,
below what a signed 32-bit integer holds."""

CID_DRAWS = 64
"""Draws before we say that no CID is free; the range has two thousand million."""

KVM_PROBE_SECONDS = 10.0
"""A kernel under a KVM that works prints within a second (design 7)."""

KVM_RETRY_SECONDS = 300.0
"""How long a failed test of KVM is kept; twice as long after each further one."""

KVM_PROBE_BYTES = 1 << 16
"""Console bytes of the probe that are searched for its marker."""

COMPOSITOR_READY_SECONDS = 20.0
"""Time limit from starting an embedded compositor to its sockets; under a second, but a
loaded machine starts fonts and seats slowly."""

COMPOSITOR_TOOL_SECONDS = 20.0
"""A screenshot or a line of typing; a screenshot takes 0.1 s."""

COMPOSITOR_TREE_BYTES = 1 << 22
"""sway's tree of windows; 1 KiB for each window."""

MACHINED_LOOK_SECONDS = 1.0
"""Between two looks at machined's directory, one stat(2) each."""

MACHINED_RETRY_SECONDS = 15.0
"""Pause until a machine that was refused is tried again."""

MACHINED_ANSWER_SECONDS = 5.0
"""Time limit of machined's answer, which takes milliseconds."""

VM_STATE_BYTES = 1 << 16
"""Maximum size of a machine's state file; real files have 2 KiB."""

# -- workers and their jails -------------------------------------------------------

WORKER_START_SECONDS = 10.0
"""Time limit from the order to fork until the worker reports that it is jailed and
ready.  It takes milliseconds; a machine under load gets a thousand times that."""

FORK_SERVER_START_SECONDS = 60.0
"""Time limit from starting the fork server of the workers until all is imported: a
second, or twenty on a loaded machine that is emulated itself.  Longer than
WORKER_START_SECONDS, so that a worker that comes too late finds it warm at the next
attempt."""

WORKER_STOP_SECONDS = 3.0
"""Time from StopWorker, or from the death of one half, until the worker is killed."""

WORKER_KILLED_SECONDS = 10.0
"""A killed worker ends at once, unless the kernel waits for a file system that the
sandbox chose; the lease ends without it then."""

WORKER_MESSAGE_BYTES = 2 * AGENT_FRAME_BYTES
"""Maximum size of one message between supervisor and worker.  The largest has one agent
frame; an order must also fit into a SEQPACKET socket's buffer (212992 by default)."""

WORKER_QUEUE = 64
"""Decoded messages of one worker that wait for the broker; then its pipe
fills, then the worker stops reading its guest."""

AGENT_MESSAGES_PER_SECOND = 200.0
AGENT_MESSAGES_BURST = 400
"""How fast a worker passes on its guest's messages; beyond it the guest waits.
200 output chunks of 16 KiB are 3 MB/s of log, more than a user reads."""

WAYLAND_CONNECTS_PER_SECOND = 50.0
WAYLAND_CONNECTS_BURST = 64
"""How fast a worker takes new Wayland clients; beyond it they wait in the
backlog.  A desktop session that starts is a burst of some tens."""

WORKER_MESSAGES_PER_SECOND = 1000.0
WORKER_MESSAGES_BURST = 4000
"""Messages that the supervisor accepts from one worker.  An honest one keeps the two
paces above (300 a second together), so a worker that exceeds this was taken over,
and is ended: its messages cost time that other sandboxes need."""

KEEPER_CONNECT_SECONDS = 5.0
"""Time limit of connect(2) to the compositor, which blocks while its backlog is
full."""

VMM_FDS = 1024
"""RLIMIT_NOFILE of QEMU and of its helper programs, except a folder's server: a socket
for each of 256 streams, and some.  With the limit of a broker, a compromised program
had all epoll entries of its user (the square of its files)."""

VMM_BYTES = 3 << 30
"""RLIMIT_DATA of QEMU without its guest's memory, which is not counted if it is shared.
Translated code takes a GiB at most, 64 threads for disks and one for each processor
their stacks, 8 MiB each."""

FOLDER_FILES = 1 << 18
"""RLIMIT_NOFILE of a micro VM's folder server: it holds one for each file that its guest's
kernel remembers, 30,000 after ``find -size`` in a tree of as many (measured); Linux's
source has 93,000.  Each is 1.5 KiB of kernel memory that no other program can have."""

FOLDERS_FILES = 1 << 19
"""RLIMIT_NOFILE of all folder servers of one micro VM together, in equal parts."""

FOLDERS_FILES_SHARE = 16
"""Or this part of the files that the machine may have open (``fs.file-max``, which systemd
raises out of the way), if that is less: beyond it no program of any user opens one."""

GUEST_SERVER_BYTES = 1 << 28
"""RLIMIT_DATA of each folder server and of vhost-device-vsock, which the guest's memory,
mapped and shared, does not count for.  A file that is remembered takes 0.25 KiB, an open
directory 32 KiB once it is read, a connection 64 KiB (measured)."""

WORKER_FDS = 2048
"""RLIMIT_NOFILE of a worker: two sockets for each client, and 28 descriptors
in flight for some tens of them at one time.  A client that exceeds it
loses its connection (MSG_CTRUNC)."""

WORKER_ADDRESS_BYTES = 40 << 30
"""RLIMIT_AS of a worker: pools are mapped sparse, WAYLAND_SHM_BYTES of them."""

WORKER_DATA_BYTES = 512 << 20
"""RLIMIT_DATA of a worker: private memory; it holds about 20 MiB."""

SANDBOX_FDS = 700
"""RLIMIT_NOFILE of each program in a box or container that we start, where its record
does not say: its user is the user to the kernel, which counts descriptors in flight
for the whole user (unix(7), ETOOMANYREFS).  With the 253 descriptors that one last
message may carry it stays below the usual 1024.
The policy's ``FEW_OPEN_FILES`` is the same number."""

BOX_PROCESSES = 4096
"""RLIMIT_NPROC of a box, threads counted: the kernel has 32,768 process ids on small
machines, and systemd gives a user a part of them.  A browser with many tabs has some
hundred."""

BOX_NAMESPACES = 64
"""Maximum number of namespaces of each kind in a box with ``launch.user_namespaces``:
browsers make a user namespace for each process of a page, and one or two of other
kinds."""

BOX_INOTIFY_INSTANCES = 32
"""A user has 128 in all.  A program of GTK has up to three."""

BOX_INOTIFY_WATCHES = 16384
"""Maximum number of inotify watches of a box.  The user has a hundred thousand and
more.  An editor watches each directory of its project."""

BOX_FANOTIFY_GROUPS = 4
"""Maximum number of fanotify groups of a box.  The user has 128; few programs have
one."""

BOX_TERMINALS = 128
"""Pseudo-terminals of a box.  All boxes and containers of this machine have 3,072
(``kernel.pty.max`` less ``kernel.pty.reserve``)."""

BOX_SIGNALS = 1024
"""RLIMIT_SIGPENDING of a box, for all its programs together: timers of timer_create(2)
and queued signals.  The user has some ten thousand."""

BOX_MESSAGE_BYTES = 65536
"""RLIMIT_MSGQUEUE of a box, for POSIX message queues; the user has 800 KiB."""

SANDBOX_LOCKED_BYTES = 65536
"""RLIMIT_MEMLOCK of each program in a box, and of QEMU and its helpers: memory that is
never paged out.  The kernel's own default of long; gpg and keyrings lock 32 KiB."""

BOX_OOM = 1000
"""oom_score_adj of a box and its like: its programs end first where memory ends."""

VMM_OOM = 300
"""oom_score_adj of QEMU and its helpers, which have a guest's work: after boxes, and
before programs of the desktop that have a third of the memory less."""

BOX_MEMORY_PARTS = (
    ("/tmp", 8),  # noqa: S108 -- the box's own
    ("/var/tmp", 32),  # noqa: S108
    ("/home", 4),
    ("/dev/shm", 16),  # noqa: S108
    ("/run", 32),
)
"""Sizes of a box's file systems in memory, as divisors of the machine's memory: half in
all.  Their content belongs to no process, so the end of a process frees none of it; the
kernel's own limit is half for each.  Toolkits without memory files have pictures of
windows in /run."""

BOX_SMALL_BYTES = 16 << 20
"""Size of a box's root file system, which has directories and links only."""

# -- guest images ------------------------------------------------------------------

IMAGE_PACKAGES = 500
"""Packages named for one image: mmdebstrap takes them in one argument."""

HOST_FILES_BYTES = 32 << 20
"""Maximum size of the host's files that a guest receives: they are unpacked into its
memory."""

IMAGE_BUILD_SECONDS = 1800.0
"""Time limit of one step of a build: half a minute is usual, a slow mirror takes
longer."""

IMAGE_IMPORT_BYTES = 16 << 30
"""Files of an image from elsewhere, and its layers unpacked."""

IMAGE_DOWNLOAD_BYTES = 4 << 30
"""Largest file of a signed image that is downloaded without --max-size."""

IMAGE_FETCH_SECONDS = 60.0
"""Time in which a server sends ``IMAGE_FETCH_BYTES`` of a signed image, in seconds."""

IMAGE_FETCH_BYTES = 64 << 10
"""Bytes that a server sends in ``IMAGE_FETCH_SECONDS``; a modem of 1994 was faster."""

IMAGE_FREE_BYTES = 1 << 30
"""Room that a build asks for before it begins, where the image goes and where
it is made; the default image needs 450 MiB in the one, 900 MiB in the other."""

WAYLAND_UNKNOWN_SCREEN = (1920, 1080)
"""Width and height that bound popups while the compositor has announced
no screen's size."""

WAYLAND_COPIED_BYTES_PER_POOL = 128 << 20
"""The same for one pool; older ones are given back.  Four 4K buffers."""

WAYLAND_COPIED_BYTES = 1 << 30
"""Our memory, for one sandbox, that takes the place of its shared memory at the
compositor.  Two 4K windows with three buffers each are 200 MB; as WAYLAND_SHOWN_PIXELS,
it is thirty-two buffers in 4K."""

WAYLAND_COPIED_AT_ONCE = 4 << 20
"""Bytes of a picture that are copied before others of the sandbox have their turn: one
to two milliseconds where the copy's memory is new."""

LAUNCH_BIND_SECONDS = 120.0
"""Between the preparation of a launch and its first process: a runtime may unpack
an image meanwhile.  Later ones are refused."""

LAUNCHES_PENDING = 64
"""Launches that are prepared and not bound: each has a directory in the runtime
directory, and a program that prepares and fails leaves it until the time is over."""

PROGRAM_FILES = 4096
"""Files of /proc that a status reads for the memory of a sandbox's programs, one for each
process and one for each thread: some 60 ms.  A Firefox of 14 processes has 240."""
PROGRAM_SECONDS = 0.2
"""The time that a status spends on these files, of each sandbox."""
