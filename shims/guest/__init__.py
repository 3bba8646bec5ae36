"""The guest's side of Vitrail: PID 1 of a micro VM, or a service elsewhere.

Guarantees
    * connects to the broker's agent port and obeys Run, Signal and PowerOff;
    * starts one ``waypipe server`` for the guest and carries each of its
      connections to the broker's display port;
    * runs our tool for files and links in a copy of itself, as the user;
    * reports starts, ends, output and every step on the way to a window;
    * as PID 1 also mounts, names, networks, reaps and powers off.

Nothing on the other side trusts it: it runs in the sandbox.  It must not hang
either, so it is one event loop over non-blocking descriptors: every queue is
bounded, everything that waits has a deadline, and a program never waits for a
broker that is away.

The protocol is ``broker/ipc/agent.py`` in frames of ``broker/core/framing.py``;
a test compares the tables.  Standard library only, Python 3.9; a guest gets all of
it as one file, ``vitrail_guest.py``, which ``shims/bundle.py`` makes.

Settings: environment ``VITRAIL_AGENT``, ``VITRAIL_DISPLAY`` and
``VITRAIL_AUDIO`` (``vsock:CID:PORT`` or ``unix:PATH``), ``VITRAIL_RUNTIME`` (directory for our
own sockets).  As PID 1 also the kernel arguments ``vitrail.name=``,
``vitrail.net=dhcp``, ``vitrail.cards=`` (see ``network_cards``), ``vitrail.disposable=1``, ``vitrail.orphan=SECONDS``,
``vitrail.keep=home`` (what is kept on the disk ``vitrail-home``, or
``vitrail.disk=DEVICE``), ``vitrail.off=reset`` (a reset ends the machine),
``vitrail.parent=1`` and ``vitrail.warm=`` (see ``parent``).
``VITRAIL_SECRET`` names a file with the launch's secret in hexadecimal; with one
(a micro VM's agent may have it in its source), no connection to the broker is
used before the program at the port has proved that it launched this machine.
``VITRAIL_PIECES`` is the most bytes of a single write, for transports that
lose larger ones.
"""
