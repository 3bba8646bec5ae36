"""Carry the Wayland connections of a guest's programs to the display port of its broker.

    vitrail_wayland.py --display PATH --socket PATH [--arena FD --base BYTES] [--gpu]

Takes the place of ``waypipe server`` where the guest has an arena: memory that its host
has, too.  What a program has drawn is copied into the arena at each commit, and the
stream says where it is; the rest is waypipe's protocol at version 16.  Without an arena,
or where the host announces none, pixels go into the stream.

It ends with its standard input.  It runs with the rights of the guest's programs and
protects nothing: what it sends is checked outside of the sandbox.
"""
