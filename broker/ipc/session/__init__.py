"""Orders of the viewer to children of the starter, which have the user's rights.

The viewer is confined: it opens no file of the user's, connects to no service, and starts
no program.  A child of the starter carries out one order.  It checks the order's
``warrant`` (``ipc.session.warrant``) where what is done could harm the user, takes all else
(programs, options, places) from its own code, and answers, with descriptors where it opens
something.

One msgpack value in one packet of a SEQPACKET socket (``wire.fdpass``).  A child ends when
it has answered; a child that serves for longer is ended by SIGTERM.
"""
