"""Limits of USB devices: their descriptors, how often they come and go.

``vitrail-devices``, the host, the viewer and the process of a security key keep to
them.
"""

from __future__ import annotations

DEVICE_DESCRIPTOR_BYTES = 65553
"""Descriptors of one device in the kernel: 18 bytes, then its configurations, each at
most 65535 bytes (wTotalLength).  A device with more is not described, so it
is attached to nothing."""

DEVICE_INTERFACES = 256
"""Interface descriptors of one device, all alternate settings counted; equals
``policy.records.device.DEVICE_INTERFACES``."""

DEVICE_WORD_CHARACTERS = 256
"""A string of a device after escaping; equals ``policy.records.device.DEVICE_TEXT_CHARS``.
The kernel takes 126 UTF-16 units of a string descriptor."""

DEVICE_LISTED_SANDBOXES = 64
"""Sandboxes that a device may go to, as a list of devices names them."""

DEVICES = 256
"""Devices that are known at once.  USB has 127 addresses on a bus."""

DEVICE_PLUGS_PER_SECOND = 0.5
DEVICE_PLUGS_BURST = 4
"""How often a port may be plugged before its devices wait to be looked at.  Four at
once: a stick whose firmware resets itself comes three times."""

DEVICE_HOLD_SECONDS = 5.0
"""How long a port that is plugged too often must be quiet before the device
in it is examined."""

DEVICE_ATTACH_SECONDS = 20.0
"""Time limit from a verdict to the device in the guest; usbip takes 0.03 s, a guest
under emulation that is busy a few seconds."""

DEVICE_DETACH_SECONDS = 10.0
"""Time limit for detaching a device; QEMU answers within 0.1 s."""

DEVICE_STANDBY_PER_SANDBOX = 4
"""Connections of one guest that wait for a device to be handed to."""

DEVICE_HELPER_MESSAGE_BYTES = 65536
"""A message between a broker and ``vitrail-devices``; a device has a few KiB."""

DEVICE_LIST_BYTES = 131072
"""All devices in one answer.  A packet must fit into a socket's send buffer
(212,992 bytes by default), or no device could be listed or attached any more;
a device with few interfaces has 600 bytes."""

DEVICE_KINDS = 8
"""Kinds of interfaces that a device's title names."""

SECURITY_KEY_CONNECTIONS = 4
"""Connections of one sandbox to the security key; each has a separate process.
The guest's program keeps one."""

SECURITY_KEY_MESSAGES_PER_SECOND = 20
SECURITY_KEY_MESSAGES_BURST = 64
"""Messages of a security key's process, read no faster; it waits meanwhile, and its guest
with it.  A question has two; a page that tries many keys of an account asks for each."""

SECURITY_KEY_REQUESTS_PER_SECOND = 2
SECURITY_KEY_REQUESTS_BURST = 40
"""Requests of one record to the security key, what only reads included.  A sign-in has
six or so (which key it is, PIN, looks, the signature)."""

SECURITY_KEY_TURN_SECONDS = 30.0
"""How long a permitted request has the security key to itself: keys wait as long for a
touch (CTAP 2.1, 6), and other sandboxes wait for the key."""

SECURITY_KEY_PIN_TRIES = 2
"""Wrong PINs of one record until the user is asked about each; a key locks itself
after eight, and waits for power after three."""

DEVICE_HELPER_CLIENTS = 8
"""Brokers of one machine that are connected to ``vitrail-devices`` at once."""

CTAP_MESSAGE_BYTES = 7609
"""Maximum size of one CTAPHID message: 64 - 7 + 128 * (64 - 5) bytes (CTAP 2.1,
11.2.4)."""

CTAP_CHANNELS = 16
"""CTAPHID channels of one sandbox; a browser opens one for each key it looks at."""

CTAP_SECONDS = 120.0
"""Time limit of one transaction with a security key; browsers give up after 60 to 120
s."""
