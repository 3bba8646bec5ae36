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
so that what is too long is answered with that reason."""
