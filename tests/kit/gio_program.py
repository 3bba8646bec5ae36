"""A program of GIO that a test runs in a sandbox by the machine's Python.

Each word is a part of GIO that it uses; it prints one line of JSON for each.  GIO uses a
portal for each of them if ``GTK_USE_PORTAL`` is set and the bus has the portal's name.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

from gi.repository import Gio, GLib


def print_result(name, *values):
    print(json.dumps([name, *values]), flush=True)


def start_portal():
    """Start the portal, as a dialog or the settings of a toolkit do."""
    bus = Gio.bus_get_sync(Gio.BusType.SESSION)
    target = ["org.freedesktop.DBus"] * 3
    target[1] = "/org/freedesktop/DBus"
    arguments = GLib.Variant("(su)", ("org.freedesktop.portal.Desktop", 0))
    flags = Gio.DBusCallFlags.NONE
    bus.call_sync(*target, "StartServiceByName", arguments, None, flags, -1)


def connect(port):
    """Connect to a server; the resolver of proxies is asked first."""
    reached = Gio.SocketClient().connect_to_host(f"127.0.0.1:{port}", 0)
    return reached is not None


def iterate_until(condition, seconds=20):
    """Run the main loop until the condition holds; return whether it does."""
    context = GLib.MainContext.default()
    expired = []
    timer = GLib.timeout_add_seconds(seconds, lambda: expired.append(True))
    while not condition() and not expired:
        context.iteration(True)
    if not expired:
        GLib.source_remove(timer)
    return not expired


def print_network():
    """Print the state of the network, which arrives after the monitor is made."""
    monitor = Gio.NetworkMonitor.get_default()
    iterate_until(monitor.get_network_available, 2)
    print_result(
        "network",
        type(monitor).__name__,
        monitor.get_network_available(),
        monitor.get_connectivity().value_nick,
        monitor.get_network_metered(),
    )


def watch_network():
    """Print the state of the network each time that the monitor reports it."""
    monitor = Gio.NetworkMonitor.get_default()
    states = []

    def report(*_):
        state = monitor.get_network_available(), monitor.get_connectivity().value_nick
        if states[-1:] != [state]:
            states.append(state)
            print_result("state", *state)

    report()
    monitor.connect("network-changed", report)
    iterate_until(lambda: len(states) == 3, 60)


def trash(directory, name):
    """Trash a new file; return what is left there and in the trash."""
    path = os.path.join(os.path.expanduser(directory), name)
    with open(path, "w") as file:
        file.write("content")
    Gio.File.new_for_path(path).trash()
    bins = [os.path.expanduser("~/.local/share/Trash")]
    bins.append(os.path.join(directory, f".Trash-{os.getuid()}"))
    (folder,) = (path for path in bins if os.path.exists(f"{path}/files/{name}"))
    with open(f"{folder}/files/{name}") as file:
        content = file.read()
    with open(f"{folder}/info/{name}.trashinfo") as file:
        info = file.read().splitlines()
    return os.path.exists(path), content, *info[:2]


def notify():
    """Show a notification and wait for the answer to it."""
    app = Gio.Application(application_id="org.example.Gio")
    answers = []
    action = Gio.SimpleAction(name="answer", parameter_type=GLib.VariantType("s"))
    action.connect("activate", lambda _, value: answers.append(value.get_string()))
    app.add_action(action)
    app.register()
    app.send_notification("second", Gio.Notification.new("withdrawn"))
    notification = Gio.Notification.new("from GIO")
    notification.set_body("a text")
    target = GLib.Variant("s", "yes")
    notification.add_button_with_target("Reply", "app.answer", target)
    app.send_notification("first", notification)
    app.withdraw_notification("second")
    iterate_until(lambda: answers, 60)
    return answers


def use(name, *arguments):
    """Use a part of GIO and print what came of it."""
    try:
        if name == "connect":
            with socket.create_server(("127.0.0.1", 0)) as server:
                print_result(name, connect(server.getsockname()[1]))
        elif name == "proxy":
            proxies = Gio.ProxyResolver.get_default()
            print_result(name, *proxies.lookup(arguments[0]))
        elif name == "network":
            print_network()
        elif name == "watch":
            watch_network()
        elif name == "reach":
            monitor = Gio.NetworkMonitor.get_default()
            host, _, port = arguments[0].rpartition(":")
            address = Gio.NetworkAddress.new(host, int(port))
            print_result(name, monitor.can_reach(address))
        elif name == "trash":
            print_result(name, *trash(*arguments))
        elif name == "notify":
            print_result(name, *notify())
        elif name == "power":
            power = Gio.PowerProfileMonitor.dup_default()
            memory = Gio.MemoryMonitor.dup_default()
            saving = power.get_power_saver_enabled()
            print_result(name, type(power).__name__, type(memory).__name__, saving)
    except GLib.Error as error:
        print_result(name, "error", error.message)


if __name__ == "__main__":
    start_portal()
    threading.Timer(100, os._exit, (1,)).start()
    for word in sys.argv[1:]:
        use(*word.split("=", 2))
    os._exit(0)
