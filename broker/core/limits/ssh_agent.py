"""Limits of ssh agents' requests and answers.

Workers, the viewer and session children keep to them.
"""

from __future__ import annotations

SSH_FRAME_BYTES = 1 << 16
"""Maximum size of a request or an answer.  A login with a certificate has some
kilobytes, a list of 64 keys fits; OpenSSH's own limit is 256 KiB."""

SSH_KEY_BYTES = 1 << 13
"""Maximum size of a public key, a certificate or a signature: 16,384 bits of RSA are 2
KiB."""

SSH_KEYS = 64
"""Maximum number of keys in one list.  A server tries six by default (``MaxAuthTries``,
sshd_config(5))."""

SSH_SESSIONS = 16
"""Sessions bound in one connection, as OpenSSH's agent has it: each is a host on the way
that an agent is forwarded."""

SSH_CONNECTIONS_PER_RECORD = 16
"""Connections of all sandboxes of a record to agents at one time: git fetches several
repositories, ansible logs in to five hosts.  Each is a process with the user's rights."""

SSH_UNBOUND_SECONDS = 300.0
"""Time limit for the next request of a connection that has bound no session: a program
that has listed the keys, and waits for its server or its user.  LoginGraceTime
(sshd_config(5)) is 120 s."""

SSH_REQUESTS_PER_SECOND = 20
SSH_REQUESTS_BURST = 100
"""Burst of requests of all connections of a sandbox: rsync or git makes three for a
login."""

SSH_SILENT_SECONDS = 10.0
"""Time limit for the rest of a message that has begun, and for reading an answer."""

SSH_AGENT_SECONDS = 120.0
"""Time limit of an agent's answer: a hardware key waits for the user's touch,
ssh-askpass for a passphrase."""
