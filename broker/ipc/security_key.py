"""What a guest wants of a security key, as its parser tells the viewer.

The parser runs in the process of a security key, beside a session child, not in the
worker.
"""

from __future__ import annotations

REGISTER, SIGN_IN, LOOK = "register", "sign in", "look"
ENTER_PIN = "enter PIN"
READ = "read"
"""What a request is for.  To read (which key it is, how many tries are left) is no use
of the key: the connection permits it, at a pace."""
