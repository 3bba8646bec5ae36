"""The calls and signals of the session's bus: a row for each, and no other is taken.

The guest's objects (``bus_service``) answer the rows of ``guest``; the viewer has those
of ``desktop`` at the user's own bus, where its filter passes no others
(``broker/session/session_bus_filter.py``).  ``docs/messages.md`` is printed from them.
Sources: the Desktop Notifications Specification 1.2, the StatusNotifierItem
specification and the documentation of XDG Desktop Portal.

Three processes have the table: this program in the sandbox, the viewer
(``broker/net/desktop_bus.py``) and the session child with that filter.
"""

from __future__ import annotations

PORTAL_NAME = "org.freedesktop.portal.Desktop"
PORTAL_PATH = "/org/freedesktop/portal/desktop"
# Interface, bus name, path and the service whose rule decides.  Below it a member, who
# has it, the types of its values, and "signal", or: the types of its reply, the method
# of the guest's object that answers, and the most that may run in a guest with the text
# of the error for a further one.  "-": none; "=": as the interface.
BUS_TABLE = """
org.freedesktop.Notifications  =  /org/freedesktop/Notifications  vitrail.Notification
  Notify                          both     susssasa{sv}i       u          _notify
  CloseNotification               both     u                   -          _close
  GetCapabilities                 both     -                   as         _capabilities
  GetServerInformation            both     -                   ssss       _information
  NotificationClosed              both     uu                  signal
  ActionInvoked                   both     us                  signal
  ActivationToken                 desktop  us                  signal

org.kde.StatusNotifierWatcher  =  /StatusNotifierWatcher  vitrail.Tray
  RegisterStatusNotifierItem      both     s                   -          _register
  RegisterStatusNotifierHost      guest    s                   -          _ignore
  StatusNotifierItemRegistered    guest    s                   signal
  StatusNotifierItemUnregistered  guest    s                   signal
  StatusNotifierHostRegistered    guest    -                   signal

org.freedesktop.portal.Settings  portal  portal  vitrail.Settings
  ReadAll                         guest    as                  a{sa{sv}}  _read_all
  ReadOne                         guest    ss                  v          _read_one
  Read                            both     ss                  v          _read
  SettingChanged                  both     ssv                 signal

org.freedesktop.portal.FileChooser  portal  portal  vitrail.FileDialog
  OpenFile                        both     ssa{sv}             o          _begin  32  too many dialogs are open
  SaveFile                        both     ssa{sv}             o          _begin  32  too many dialogs are open
  SaveFiles                       both     ssa{sv}             o          _begin  32  too many dialogs are open

org.freedesktop.portal.Print  portal  portal  vitrail.Print
  PreparePrint                    guest    ssa{sv}a{sv}a{sv}   o          _prepare
  Print                           guest    ssha{sv}            o          _print  4  too many print requests

org.freedesktop.portal.Camera  portal  portal  vitrail.Camera
  AccessCamera                    guest    a{sv}               o          _ask  16  too many pending requests
  OpenPipeWireRemote              guest    a{sv}               h          _remote

org.freedesktop.portal.ScreenCast  portal  portal  vitrail.ScreenShare
  CreateSession                   both     a{sv}               o          _create  16  too many sessions
  SelectSources                   both     oa{sv}              o          _select
  Start                           both     osa{sv}             o          _begin
  OpenPipeWireRemote              both     oa{sv}              h          _remote

org.freedesktop.portal.OpenURI  portal  portal  vitrail.OpenURL,vitrail.OpenFile
  OpenURI                         guest    ssa{sv}             o          _open_address  8  too many open requests
  OpenFile                        guest    sha{sv}             o          _open_file  8  too many open requests

org.freedesktop.portal.Notification  portal  portal  vitrail.Notification
  AddNotification                 guest    sa{sv}              -          _add
  RemoveNotification              guest    s                   -          _remove
  ActionInvoked                   guest    ssav                signal

org.freedesktop.portal.Trash  portal  portal  -
  TrashFile                       guest    h                   u          _trash

org.freedesktop.portal.ProxyResolver  portal  portal  -
  Lookup                          guest    s                   as         _look_up_proxies

org.freedesktop.portal.NetworkMonitor  portal  portal  -
  GetAvailable                    guest    -                   b          _available
  GetMetered                      guest    -                   b          _metered
  GetConnectivity                 guest    -                   u          _connectivity
  GetStatus                       guest    -                   a{sv}      _status
  CanReach                        guest    su                  b          _can_reach  16  too many names are being resolved
  changed                         guest    -                   signal

org.freedesktop.portal.MemoryMonitor  portal  portal  -
  LowMemoryWarning                guest    y                   signal

org.freedesktop.portal.PowerProfileMonitor  portal  portal  -

org.freedesktop.portal.Request  portal  portal/request/*  -
  Close                           both     -                   -          close
  Response                        both     ua{sv}              signal

org.freedesktop.portal.Session  portal  portal/session/*  -
  Close                           guest    -                   -          close
  Closed                          both     a{sv}               signal

org.freedesktop.DBus.Properties  portal  portal  -
  Get                             desktop  ss                  v
"""


class BusRow:
    """A method or signal (``gives`` is "signal") of an interface."""

    def __init__(
        self,
        member: str,
        side: str,
        takes: str,
        gives: str,
        answer: str = "",
        most: str = "0",
        refusal: str = "",
    ) -> None:
        self.member, self.takes = member, takes.strip("-")
        self.signal = gives == "signal"
        self.gives = "" if self.signal else gives.strip("-")
        self.guest, self.desktop = side != "desktop", side != "guest"
        self.answer, self.most, self.refusal = answer, int(most), refusal

    def answers(self, types: str) -> bool:
        """Return whether a guest's object answers a call with values of these types."""
        return self.guest and not self.signal and self.takes == types


class BusObject:
    """An interface: who has it on the bus, at which path, and its rows by member."""

    def __init__(self, block: str) -> None:
        head, *lines = block.splitlines()
        self.interface, name, path, service = head.split()
        self.service = service.strip("-")
        self.name = PORTAL_NAME if name == "portal" else self.interface
        self.path = path.replace("portal", PORTAL_PATH, 1)
        rows = [BusRow(*line.split(maxsplit=6)) for line in lines]
        self.rows = {row.member: row for row in rows}


BUS_OBJECTS = {
    one.interface: one for one in map(BusObject, BUS_TABLE.strip().split("\n\n"))
}
