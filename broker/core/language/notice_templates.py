"""The sentences of notifications and errors that are shown in the user's language.

The authority, the viewer and the host write them in English, into logs and messages;
``notices`` recognises them where a person reads them.  A value stands in braces; what may
stand there is in ``notices.VALUES``, by the value's name.  ``tests.broker.core.language``
compares each with the sources.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from broker.core.language.catalogue import mark

Template: TypeAlias = str | tuple[str, str]
"""A sentence, or its forms for one and for many of its ``{number}``."""


def _counted(one: str, many: str) -> Template:
    """Return a sentence in its two forms; ``docs.print_catalogues`` finds it here."""
    return one, many


TEMPLATES: Final[tuple[Template, ...]] = (
    # A decision.
    mark("Vitrail: a request of {name} was refused"),
    mark("it wanted {text};"),
    mark("you did not answer in time; to be asked again, repeat the action"),
    mark("Vitrail: a request of {name} was allowed"),
    mark("Vitrail: a request of {name} was cut"),
    mark("{service} to {target}, by {where}"),
    _counted("(and {number} more like it)", "(and {number} more like it)"),
    # What crossed the clipboard, or did not.
    mark("Copied {what} from {party}"),
    mark("press {chord} in a sandbox to paste it once"),
    mark(
        "(to paste it in your own programs, write the rule: {service} * {name} @adminvm ask)"
    ),
    mark("(copied in the window titled {text})"),
    mark("by {where}; paste it there as usual, the clipboard is cleared"),
    mark("by {where}; paste it there as usual"),
    mark("dropped, by {where}"),
    mark("by {where}"),
    mark("Not copied to your own programs: {way}"),
    mark("Not copied: {way}"),
    mark("Not pasted: {way}"),
    mark("Not dropped: {way}"),
    mark("the window did not accept it"),
    mark("Clipboard wiped: {way}"),
    mark("Clipboard wiped"),
    mark("the content expired"),
    mark("the audit log could not be written, or an internal error occurred"),
    mark("Files copied: {way}"),
    mark("Files not copied: {way}"),
    mark("the files are in ~/Incoming/{name}"),
    mark("{what}: {source} → {destination}"),
    mark("Vitrail: no key combinations for the clipboard"),
    # What it was.
    mark("{source} → {destination}"),
    mark("your own programs"),
    mark("the desktop"),
    mark("{size} of text"),
    mark("text and a picture ({size})"),
    mark("a picture and text ({size})"),
    mark("a picture ({size})"),
    mark("{mime} ({size})"),
    _counted("{number} file", "{number} files"),
    mark("a file"),
    mark("something"),
    _counted("{number} byte", "{number} bytes"),
    # Why nothing crossed: broker.viewer.clipboard.exchange.reasons.
    mark("the sandbox does not have the keyboard focus"),
    mark("the keyboard focus of {name} has changed just now: press the keys again"),
    mark("another transfer is already in progress"),
    mark("the keyboard focus moved to another sandbox"),
    mark("the clipboard is empty, or its content has expired"),
    mark(
        "your own programs have copied something newer, and no rule lets it into the sandbox"
    ),
    mark("the sandbox has not copied anything of an allowed type"),
    mark(
        "nothing was copied with the key combination, and the desktop's clipboard contains no allowed type"
    ),
    mark(
        "the clipboard does not transfer files, and a file name refers to another file in the target"
    ),
    mark("the content is larger than the limit"),
    mark("the sandbox did not send the content in time"),
    mark("the sandbox withdrew the content while the broker read it"),
    mark("the content comes from the same sandbox: paste it as usual"),
    mark("the decision timed out"),
    mark("the clipboard was cleared"),
    mark("the sandbox ended"),
    mark("the host was reconnected"),
    mark("the user cleared the clipboard"),
    mark("the rules and records allow no type of the content"),
    mark("the content was copied longer ago than the rule allows"),
    mark("no content remained after sanitizing"),
    mark("the record requires rewriting of images, which only PNG supports"),
    mark(
        "content cannot be dragged to another sandbox: copy it with the key combination"
    ),
    mark(
        "dragging files to another sandbox is not supported, and a file name refers to another file in the target"
    ),
    mark(
        "use 'brokerctl cp FILE SANDBOX:': the program that you drag from gives names of files or a link, and no key of the desktop's document portal; Files (Nautilus) gives one if xdg-desktop-portal is installed, Thunar and Dolphin 22.12 give none; a link is copied with the key combination"
    ),
    mark(
        "use 'brokerctl cp FILE SANDBOX:', or write a rule: no rule for vitrail.FileCopy from @adminvm to the sandbox allows it"
    ),
    mark(
        "use 'brokerctl share SANDBOX DIRECTORY': a container or box has no guest agent that could store a file"
    ),
    mark(
        "use 'brokerctl cp DIRECTORY SANDBOX:': the program that you drag from gave no key to the files, as older document portals accept no directory"
    ),
    mark("the dragged content has no allowed type"),
    mark("the sandbox where the drag began is unknown"),
    mark("only one of the two sandboxes reported the drop"),
    mark("two sandboxes reported the drop in one of their windows"),
    mark("the desktop's clipboard content comes from a sandbox that has ended"),
    mark("no rule allows copying the content to the desktop's clipboard"),
    mark("the records allow no type of the copied content"),
    mark("the rules or records no longer allow the content"),
    mark("an internal error prevented a decision"),
    mark("the seat has no keyboard"),
    mark("the compositor did not send a keymap"),
    # Why a request was refused or cut: rules, records, limits and the user's answer.
    mark("denied: {reason}"),
    mark("denied by {where}"),
    mark("no rule matches, so the answer is deny"),
    mark("no rule matches"),
    mark("the user said no"),
    mark("the user did not answer in time"),
    mark("the user chose no sandbox"),
    mark("the user could not be asked"),
    mark("no user is available to answer"),
    mark("answered over the control socket"),
    mark("the requester disconnected"),
    mark("the sandbox has stopped"),
    mark("the sandbox stopped"),
    mark("the sandbox asks too often"),
    mark("the same request was refused a moment ago"),
    mark("too many questions are already waiting"),
    mark("the chosen target is no longer offered"),
    mark("the answer has a target that was not offered"),
    mark(
        "the request was given up before the answer; the answer applies to the next attempt within {seconds} s"
    ),
    mark("the rule names another target, but this request has only one"),
    mark("no input in a window of the sandbox within {seconds} s"),
    mark("more than {number} calls in {seconds} s"),
    mark("more than 1 call in {seconds} s"),
    mark("the one call that was allowed has been made"),
    mark("{number} bytes; {where} allows {most}"),
    mark("the time limit of the rule has passed"),
    mark("its time limit has passed"),
    mark("the grant has ended: {reason}"),
    mark("the user was asked again: {reason}"),
    mark("a lockdown is in force"),
    mark("a lockdown is in force: starting is denied"),
    mark("{where} asks, but there is no target to choose from"),
    mark(
        "{where} asks, but no target can take files or addresses: a box or container has no agent that would"
    ),
    mark("{where} allows, but {reason}"),
    mark("{where} has an error, so its effect is unknown: {reason}"),
    mark("'{target}' is not running, and autostart=no"),
    mark("no sandbox is named '{target}'"),
    mark("no record is named '{name}'"),
    mark("the target is the caller itself"),
    mark("neither the call nor the rule names a target"),
    mark("'{target}' is not a valid target"),
    mark("the record '{name}' has an error: {reason}"),
    mark("the record '{name}' has audio = \"{value}\""),
    mark("the record '{name}' has microphone = \"{value}\""),
    mark("the record '{name}' has display = \"{value}\""),
    mark("the record '{name}' has network = \"{value}\""),
    # What failed on the desktop.
    mark("{name} did not open the request"),
    mark("{name} did not open the file or address"),
    mark(
        "its program ended with code {number}; to see its output, run 'brokerctl logs {name}', and check that the sandbox's image contains the program"
    ),
    mark("{name} sent you files"),
    mark("they are in ~/Incoming/{name}"),
    mark(
        "left out {number}: only files, and directories of up to {most} levels, are copied"
    ),
    mark("{name}: some of the chosen files were not copied"),
    mark("cannot keep files in ~/Incoming/{name}: a sandbox can write to {path}"),
    mark("{name}: no file was opened or saved"),
    mark("{name}: nothing was printed"),
    mark("{name}: no ssh key was used"),
    mark("this desktop has no ssh agent that the broker can connect to"),
    mark(
        "run 'brokerctl restart' in a shell where SSH_AUTH_SOCK names the agent's socket"
    ),
    _counted(
        "{name} prints {number} page on {text}",
        "{name} prints {number} pages on {text}",
    ),
    mark("document, it says: {text}"),
    mark("Vitrail: cannot share {path} with {name}"),
    mark("Vitrail: cannot attach {device} to {name}"),
    mark("Vitrail: the rules have an error"),
    mark(
        "there is no valid set of rules: everything is denied until the error is corrected"
    ),
    mark(
        "the previous rules remain in force, so permissions that the change removes are still granted"
    ),
    mark("Vitrail: a record has an error"),
    mark("Running sandboxes keep their old settings."),
    mark("Vitrail: a settings file has a mistake"),
    mark(
        "To see the place, run 'brokerctl policy check'. The next broker may not start with this mistake."
    ),
    mark("Vitrail: a port of the broker is in use"),
    mark("another program is listening on vsock port {number} of {service}"),
    mark(
        "stop guests without a launch secret, which would trust that program; then run 'sudo ss --vsock -lp' to find the program and stop it"
    ),
    mark("the guest reported that its GPU does not answer"),
    mark(
        "its window asked for the whole screen and fills its place within its frame, as the record says: for the whole screen within its frame, run 'brokerctl set {name} fullscreen framed'"
    ),
    # What a target of a request did: broker.viewer.exchange.failures.
    mark("{party} rejected the request"),
    mark("{party} closed the connection"),
    mark("{party} could not be started"),
    mark("{party} could not be reached"),
    mark("look for the reason in the broker's log"),
    mark("to see the output of {name}, run 'brokerctl logs {name}'"),
    mark("to see the output of its program, run 'brokerctl logs {name}'"),
    mark(
        "to see the program's output, run 'brokerctl logs {name}'; check that the sandbox's image contains the program"
    ),
    mark(
        "{name} did not open the file or address: its program ended with code {number}"
    ),
    mark("{name} is not running, and the rule sets autostart=no"),
    mark(
        "'{name}' is a box or container, which does not start for a file or an address"
    ),
    mark("no program started in {name}"),
    mark("{name} could not start its program for the request"),
    mark("no program in {name} fetched the files"),
    mark("a sandbox cannot send its own files and links to itself"),
    mark("the desktop does not open files of a sandbox"),
    mark("the scheme {scheme} requires a rule with scheme={scheme}"),
    mark(
        "the request is larger than the {number} bytes that the sandbox's record allows"
    ),
    mark("the sandbox did not send the files"),
    mark("the transfer was cancelled"),
    mark("the rules have changed"),
    mark("the dialog was cancelled"),
    mark("this desktop has no default printer"),
    mark("the program lp is not installed"),
    mark("no rule for vitrail.Print allows the sandbox to print"),
    mark("no rule for vitrail.FileDialog allows the sandbox to choose files"),
    mark("sandboxes of '{name}' sent {number} requests in 24 hours, the limit"),
    mark("to raise the limit, set day_requests in [transfer] of the record"),
    # What brokerctl reports of a broker, and what to do next.
    mark("no broker is running (no answer at {path})"),
    mark("the broker did not answer within {seconds} s"),
    mark("to look for the reason, run 'brokerctl doctor'"),
    mark("to restart the broker, run 'brokerctl restart'"),
    mark("start the broker from your desktop session"),
    mark("no sandbox or record is named '{name}'"),
    mark(
        "use one of the records {list}, or add a file NAME.toml to ~/.config/vitrail/sandboxes.d (see 'brokerctl policy schema')"
    ),
    mark("correct the file; to check it, run 'brokerctl policy check'"),
    mark("no sandbox '{name}' is running"),
    mark("to list the running sandboxes, run 'brokerctl status'"),
    mark("{number} sandboxes of '{name}' are running"),
    mark("name one of them: {list}"),
    mark("{name} is suspended"),
    mark("to let its programs run again, run 'brokerctl resume {name}'"),
    mark("cannot start '{name}': it is already running"),
    mark(
        "to stop it, run 'brokerctl stop {name}'; to run more than one at a time, use a disposable record"
    ),
    mark(
        "{name} is already running: memory, processors, network and image are set when a sandbox starts"
    ),
    mark("to stop the sandbox first, run 'brokerctl stop {name}'"),
    mark("{name} ended while it was starting"),
    mark("to see the reason, run 'brokerctl audit'"),
    mark("{name} is starting or stopping"),
    mark("this sandbox is shutting down"),
    mark("the guest agent is not connected"),
    mark("no window: could not {step}: {reason}"),
    mark("could not {step}: {reason}"),
    mark("start the machine"),
    mark("boot the guest"),
    mark("start the program in the guest"),
    mark("open the display stream"),
    mark("reach the worker"),
    mark("reach the compositor"),
    mark("show a window"),
    mark("to find problems of this machine, run 'brokerctl doctor'"),
    mark("to see the guest's console, run 'brokerctl logs {name} --console'"),
    mark(
        "check that the sandbox's image contains the program; to add a package, list it in the record"
    ),
    mark(
        "to see the program's output, run 'brokerctl logs {name}'; to run a program without windows, use --no-window"
    ),
    mark("there is no guest image '{name}'"),
    mark(
        "to build it, run 'brokerctl image build {name}' (this takes a minute or two)"
    ),
    mark("the sandbox is no longer running"),
    mark("question {number} is not waiting for an answer"),
    mark("to list the waiting questions, run 'brokerctl pending'"),
    mark("there is no such grant"),
    mark("to list the grants, run 'brokerctl grants list'"),
    mark("no device is attached as '{device}'"),
    mark("to list attached devices, run 'brokerctl device list'"),
    mark("no device or port '{device}' is known"),
    mark("to list the shared folders, run 'brokerctl share'"),
    mark("the home of '{name}' is in use"),
    mark(
        "run 'brokerctl stop {name}', or wait until other brokerctl commands have ended"
    ),
    mark("the home of '{name}' is locked"),
    mark("to unlock it, run 'brokerctl sandbox unlock {name}'"),
    mark("'{name}' has no home"),
    mark("no rule allows the file to be returned"),
    mark("the rules choose no single sandbox that opens the file or address"),
    mark("name a sandbox with --in, or set target= in a rule with the source @adminvm"),
    mark("to start a broker, run 'brokerctl run SANDBOX' or {program}"),
    mark("cannot decode the broker's answer: {text}"),
    mark(
        "check that brokerctl and the running broker have the same version; to stop an old broker, run 'brokerctl stop --broker'"
    ),
    mark("no window: {reason}"),
    mark("to run a program without windows, use '--no-window'"),
    mark(
        "the guest does not answer; to see its console, run 'brokerctl logs {name} --console'; to start it anew, run 'brokerctl stop {name}', then this command again"
    ),
    mark("the sandbox already runs {number} programs, the limit"),
    mark("stop one of the programs, or raise limits.programs in the record"),
    mark("the sandbox already has {number} open streams, the limit"),
    mark("close a program of the sandbox, or raise limits.streams in the record"),
    mark("the record '{name}' was removed or is no longer valid"),
    mark("to find mistakes in records, run 'brokerctl policy check'"),
    mark(
        "{name} is a container or box without a guest agent: Vitrail cannot start a program or store a file in it"
    ),
    mark(
        "to get a file out, use the Save dialog of its program if a rule for vitrail.FileDialog allows it, or run 'vitrail-copy FILE @adminvm' in a terminal of the sandbox; to start a program, run 'brokerctl run' again, which starts another sandbox"
    ),
    mark(
        "to get a file out, use the Save dialog of its program if a rule for vitrail.FileDialog allows it, or run 'vitrail-copy FILE @adminvm' in a terminal of the sandbox; to start a program, run 'brokerctl run {name} -- PROGRAM', which starts another sandbox"
    ),
    mark(
        "to get a file out, use the Save dialog of its program if a rule for vitrail.FileDialog allows it, or run 'vitrail-copy FILE @adminvm' in a terminal of the sandbox; to start a program, run 'brokerctl stop {name}' first, and then 'brokerctl run {target} -- PROGRAM'"
    ),
    mark("{reason}; to get files in, run 'brokerctl share {name} DIRECTORY'"),
    mark("the device in port {port} is already in use by a sandbox"),
    mark("to detach the device, run 'brokerctl device detach {port}'"),
    mark("{name} already has {number} shared folders, the limit"),
    mark("to end the sharing of a folder, run 'brokerctl unshare {name} FOLDER'"),
    mark("cannot write the audit log: {text}"),
    mark(
        "check whether the disk of {path} is full or read-only; the broker denies what must be recorded until it can write the log"
    ),
    mark("no share of the audit log is left for '{name}' for {seconds} s"),
    mark("a broker is already running ({path})"),
    mark(
        "to see its sandboxes, run 'brokerctl status'; to stop them and the broker, run 'brokerctl stop --broker'"
    ),
    mark(
        "the home of '{name}' is encrypted, but its record does not set encrypted = true"
    ),
    mark("the image {name} has no GPU driver"),
    mark("to add the driver and Mesa, run 'brokerctl image build {name} --gpu'"),
    mark(
        "to list the homes, run 'brokerctl sandbox list'; to create a home, start a persistent sandbox"
    ),
    mark("machines of a host on another machine cannot be suspended"),
    mark("to end the sandbox, run 'brokerctl stop'"),
    mark("the sandbox already has {number} calls, the limit"),
    mark("the sandbox already has {number} requests, the limit"),
    mark("the record does not allow the sandbox to play sound"),
    mark("to allow sound, run 'brokerctl set {name} sound on'"),
    mark("{program} is not installed"),
    mark("to find its package, run 'brokerctl doctor'"),
    mark("run '{command}'"),
    mark("install with your package manager: {list}"),
    mark("add to this system's image or to a sysext: {list}"),
    mark("cannot create the home of a persistent sandbox: mke2fs is not installed"),
    mark("cannot create an encrypted home: {program} is not installed"),
    mark("set encrypted = true in [state] of the record"),
    mark("'{name}' already has a home"),
    mark("cannot write to the disk: {text}; nothing was changed"),
    mark(
        "to see what uses the disk, run 'brokerctl df'; to remove a snapshot, run 'brokerctl sandbox snapshot --remove NAME LABEL'"
    ),
    mark("cannot start '{name}': {number} other sandboxes are starting"),
    mark("try again in {seconds} s, when starts without progress have ended"),
    mark(
        "only micro VMs that the broker starts can be suspended: the broker has no control group with all processes of this sandbox"
    ),
    mark(
        "suspend it by the program that started it, such as 'podman pause' or 'virsh suspend'; its windows stay"
    ),
    mark("{text} is hidden, or in a hidden folder: sandboxes cannot save there"),
    mark("you cannot save in the folder {path}"),
    mark("choose another folder, such as your Downloads"),
    mark("more than one file was chosen"),
    mark("the file has changed since you named it"),
    mark("the document no longer exists"),
    mark("plug in exactly one security key"),
    mark("no program is listening on port {number}"),
    mark("no program {number} is running in {name}"),
    mark("{name} has no windows"),
    mark("the user's desktop has no secret {text}"),
    mark("the user's desktop has no ssh agent"),
    mark("the user did not select a window or screen"),
    mark("another user connected"),
    mark("this broker serves another user"),
    mark("the link was lost"),
    mark("no host is connected"),
    mark("try again later"),
    mark("wait a minute"),
    mark("the desktop has no file chooser"),
    # The file chooser's title and buttons.
    mark("{name}: open files"),
    mark("{name}: open a folder"),
    mark("{name}: save a file"),
    mark("{name}: save files"),
    mark("Save"),
    mark("Copy"),
    # brokerctl and the panel say these, too, and the manager and the menu show them.
    mark("the broker at {socket} takes no connections: {reason}"),
    mark("cannot connect to the broker at {socket}: {reason}"),
    mark(
        "run the command as the user who started the broker; to find other reasons, "
        "run 'brokerctl doctor'"
    ),
    mark("run the command as the user who started the broker"),
    mark("there is no audit log yet ({path})"),
    mark(
        "a broker begins the log when it starts: run 'brokerctl run SANDBOX', or on "
        "the host of two machines 'vitrail-host'"
    ),
    mark("{text} is not a sandbox name"),
    mark("use 1 to 31 characters of a-z, 0-9 and '-', beginning with a-z"),
    mark("did you mean '{name}'?"),
    mark("no terminal is installed that Vitrail can open"),
    mark("install {package}, or run in your terminal: brokerctl {text}"),
    mark(
        "a lockdown is in force: microphones, cameras, copies and new starts are "
        "denied until the lockdown is lifted"
    ),
    mark(
        "a lockdown is in force: networks, microphones, cameras, copies and new "
        "starts are denied until the lockdown is lifted"
    ),
    mark(
        "a lockdown is in force, but these sandboxes may still use a network: {list}; "
        "other networks, microphones, cameras, copies and new starts are denied until "
        "the lockdown is lifted"
    ),
    # Why machines are emulated.
    mark("this machine has no {path}"),
    mark("cannot open {path}: permission denied"),
    mark("run 'sudo usermod -aG {name} $USER' and log in again"),
    mark(
        "enable virtualization in the firmware, then run 'sudo modprobe kvm_intel' or 'sudo modprobe kvm_amd'"
    ),
    # With any words at their beginning or end; the last ones.
    mark("error: {reason}"),
    mark("  hint: {reason}"),
    mark("Vitrail: {name}"),
    mark("{service}: {reason}"),
    mark("{reason} ({where})"),
    mark("{place}: {reason}"),
)
"""The first that fits is taken."""
