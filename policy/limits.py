"""Every limit of the policy's files: name, unit, reason.

They are here and not in ``broker.core.limits`` because this package imports
nothing of the broker; where both must agree, a test compares them.

The processes that read the files keep to them: authority, brokerctl, session children.
"""

from __future__ import annotations

# -- files -------------------------------------------------------------------

FILE_BYTES = 65536
"""One record.  A long one has 3 KiB; this bounds the time of a check."""

LINE_CHARS = 4096
"""One line.  Also keeps a number below the 4300 digits at which Python
refuses to convert it (sys.set_int_max_str_digits)."""

NESTING = 8
"""Brackets inside each other in one value.  Records need one; the TOML parser
recurses once for each, so depth must be bounded before it reads."""

RECORDS = 1024
"""Records in one directory: twice the leases that a broker holds."""

PROBLEMS_PER_FILE = 50
"""Problems reported for one file; a user mends the first ones anyway."""

CLASHES = 10
"""Times that a whole file is read again to find keys that exclude each other."""

# -- values --------------------------------------------------------------------

LABEL_CHARS = 40
"""A label's name.  It precedes every window title of the sandbox."""

TAGS = 32
"""Tags of one sandbox."""

PACKAGES = 200
"""Packages that a record names for its image."""
PACKAGE_CHARS = 100

COMMAND_ARGUMENTS = 256
"""Words of a command line."""

COMMAND_BYTES = 32768
"""A command line in all; equals ``broker.core.limits.ARGV_BYTES``."""

SERVICES = 64
"""Services of one sandbox that its record names."""

SERVICE_COMMAND_BYTES = 4096
"""Its command line, which crosses to the guest in one message with other texts."""

MEMORY_MIB = (128, 1 << 20)
"""Memory of a micro VM: a kernel with an initramfs needs about 100 MiB."""

HOME_BYTES = (64 << 20, 16 << 40)
"""A persistent sandbox's file system: a journal needs some MiB, and ext4 with
blocks of 4 KiB ends at 16 TiB."""

CPUS = (1, 64)
"""Virtual processors of a micro VM."""

BOOT_SECONDS = (5, 3600)
MOUNTS = 8
"""Of a record."""
DISKS = 4
MEMORY_MOUNT_BYTES = (1 << 20, 64 << 30)
SHARED_FOLDERS = (0, 8)
"""Boot deadline: emulation on a busy machine may take minutes."""

STREAMS = (1, 256)
"""Upper end equals ``broker.core.limits.STREAMS_PER_SANDBOX``."""

WAYLAND_CLIENTS = (1, 128)
"""Upper end equals ``broker.core.limits.WAYLAND_CLIENTS_PER_SANDBOX``."""

PROGRAMS = (1, 64)
"""Upper end equals ``broker.core.limits.PROGRAMS_PER_SANDBOX``."""

SOCKET_PATH_BYTES = 107
"""sun_path without its end (unix(7))."""

HYBRID_PATH_BYTES = SOCKET_PATH_BYTES - len("_65535")
"""A hybrid-vsock socket's path; the port is appended to it."""

INHERITS = 4
"""Records after each other by ``inherits``.  A reader must follow them."""

BORDER_PIXELS = (1, 64)
"""Equals what ``broker.core.streams.wayland_rules.WindowRules`` takes."""

GLOBALS = 64
"""Names of Wayland globals in one array; there are about forty."""

WINDOWS = (1, 128)
"""Upper end equals ``broker.core.limits.WAYLAND_WINDOWS``."""

POPUPS = (1, 64)
"""Upper end equals ``broker.core.limits.WAYLAND_POPUPS``."""

SURFACES = (1, 1024)
"""Upper end equals ``broker.core.limits.WAYLAND_SURFACES``."""

WINDOW_BYTES = (1 << 20, 32 << 30)
"""Upper end equals ``broker.core.limits.WAYLAND_SHM_BYTES``; one small window
needs a MiB or two."""

AUDIO_STREAMS = (1, 64)
"""The upper end is the limit of PipeWire's PulseAudio server for one client."""

AUDIO_RATE = (8000, 384000)
"""From telephones to what sound servers take (PA_RATE_MAX is 384 kHz)."""

AUDIO_CHANNELS = (1, 32)
"""PA_CHANNELS_MAX."""

AUDIO_BUFFER_BYTES = (4096, 4 << 20)
"""MAXLENGTH of both sound servers is 4 MiB."""

AUDIO_VOLUME = (0, 100)
"""Percent; PulseAudio itself would go far beyond 100."""

AUDIO_IDLE_SECONDS = (1, 3600)
"""Shorter is a pause between two words; longer is not used any more."""

MIMES = 32
"""Types that may cross a clipboard; equals CONDITION_VALUES of a rule."""

CLIPBOARD_BYTES = (1, 64 << 20)
"""A large picture.  Content held for a paste is held in memory."""

CLIPBOARD_SECONDS = (1, 86400)
"""From a second to a day."""

TRANSFER_BYTES = (1, 1 << 50)
"""As ``max-size`` of a rule."""

TRANSFER_FILES = (1, 1_000_000)
"""A source tree has 100,000 files."""

TRANSFER_REQUESTS = (1, 1_000_000)
"""One every 90 ms, day and night."""

TRANSFER_FREE_BYTES = (0, 1 << 50)
"""As TRANSFER_BYTES, and nothing at all."""

# -- rules -----------------------------------------------------------------------

RULE_FILE_BYTES = 16 << 20
"""One file of rules.  100,000 rules have about 6 MiB."""

RULES = 100_000
"""Rules of a whole set, each inclusion counted: what a check can still read in
seconds, and ten times the largest set that the benchmark goes up to."""

RULE_FILES = 1024
"""Files of a whole set, each inclusion counted.  Files that include each other
twice would double with every level."""

INCLUDE_DEPTH = 16
"""Files that include each other in one chain.  Real ones have one or two."""

RULE_PROBLEMS = 1000
"""Problems reported for a set of rules; the rest is counted."""

TOKEN_CHARS = 160
"""A name, tag or type in a rule: Qubes' tags have up to 129 characters."""

CONDITION_BYTES = (1, 1 << 50)
"""``max-size``: up to a pebibyte, which no transfer reaches; nothing at all is a deny."""

CONDITION_SECONDS = (1, 366 * 86400)
"""``ttl``, ``gesture`` and the unit of a rate: from a second to a year."""

CONDITION_RATE = (1, 1_000_000)
"""Calls in the unit of a rate."""

DOMAINS = 65536
"""Sandboxes in a world that is read from JSON."""

KEPT_BYTES = 64 << 20
"""The last good set on disk: RULES lines of ordinary length, with their places."""

# -- devices --------------------------------------------------------------------

BINDS = 32
"""Paths of the host's that a container or box sees."""

BIND_PATH_BYTES = 1024
"""Length of such a path; well below PATH_MAX, with room for the names in it."""

CONTAINER_PIDS = (1, 32768)
"""Processes of one container."""

OPEN_FILES = (64, 1048576)
"""RLIMIT_NOFILE of each program in a box or container (setrlimit(2))."""

FEW_OPEN_FILES = 700
"""The same where its record does not say.  The kernel counts the descriptors that are in
flight on UNIX sockets for the user, and holds each sender to this limit (unix(7),
ETOOMANYREFS).  With the 253 that one last message may carry it stays below the usual
1024, so that a sandbox cannot keep other programs from passing any."""

NETWORK_FLOWS = (1, 1024)
NETWORK_NEW_FLOWS = (1, 100)
NETWORK_LOOKUPS = (1, 50)
"""Of a sandbox with ``network = "rules"``: open, new a second, questions for addresses a
second; at most those of ``broker.core.limits.network``."""
NETWORK_RATE = (4096, 1 << 34)
"""Bytes a second: two packets at least, and more than a process carries."""
