"""Files and links in a guest: ask the broker to open or copy, receive, open.

One program under several names; the first argument decides:

    xdg-open, vitrail-open [--to SANDBOX] URL|FILE   ask to have it opened
    vitrail-open --edit FILE                         the same; changes come back
    vitrail-copy [--to SANDBOX | FILE… SANDBOX]      ask to have files copied
    receive TOKEN        started by the broker: fetch the files sent to this sandbox
    open-here URL        started by the broker: open an address in this sandbox
    give TOKEN URI…      started by the broker: send files that were copied or dragged
    portal               started by the session bus: org.freedesktop.portal.OpenURI
    notifications        started by the session bus: org.freedesktop.Notifications
    tray                 started by the session bus: org.kde.StatusNotifierWatcher
    vitrail-sanitize NAME   make pixels of the document on standard input
    vitrail-services     serve calls to a container or box, until it ends
    send FILE…           write the entries of files to standard output
    edit FILE ORIGIN     the same for one; replace it by what standard input has then
    store DIRECTORY      read entries from standard input and keep them there

It runs in the sandbox.  The last three also run beside the broker, for the user's own
files: a session child starts them in a jail (``own_files``).  Standard library only, Python
3.9; it is shipped as one file, ``vitrail_files.py``, which ``shims/bundle.py`` makes.

Each click starts it, and most of that time are imports where KVM is missing: a module
that few of the commands need is imported where it is used, ``typing`` never.

Settings: the environment ``VITRAIL_OPEN_URL``, ``VITRAIL_OPEN_FILE``,
``VITRAIL_COPY`` and ``VITRAIL_CALL`` (``vsock:CID:PORT`` or ``unix:PATH``).
"""
