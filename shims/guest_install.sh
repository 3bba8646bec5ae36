#!/bin/sh
# Vitrail's guest package: installs the agent into a guest that Vitrail did not build.
#
#     sh vitrail-guest.sh [--user NAME] [--no-packages] [--init KIND] [--root DIR]
#     sh vitrail-guest.sh --uninstall [--root DIR]
#
#   --user NAME     the user whose programs are shown (default: who called sudo, else the
#                   first ordinary user of /etc/passwd)
#   --no-packages   install no packages; python3 and waypipe must be there
#   --init KIND     systemd, openrc or none (default: the one of this guest)
#   --root DIR      install into the file system at DIR; nothing is started there
#   --uninstall     remove every file that an earlier run wrote
#
# Needs root, Python 3.9 and waypipe 0.8 or later; apt, dnf, pacman or apk installs them
# where they are missing.  Exit code: 0 installed, 1 refused, 2 wrong usage.
set -eu
umask 022

lib=/usr/local/lib/vitrail
qrexec=qrexec-client-vm
manifest=$lib/manifest
root=
user=
init=
packages=yes
uninstall=

die() {
    printf 'vitrail-guest: %s\n' "$1" >&2
    exit "${2:-1}"
}

note() {
    printf '%s\n' "$1"
}

value() {
    [ $# -ge 2 ] || die "$1 needs a value" 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --user) value "$@" && user=$2 && shift ;;
    --init) value "$@" && init=$2 && shift ;;
    --root) value "$@" && root=${2%/} && shift ;;
    --no-packages) packages= ;;
    --uninstall) uninstall=yes ;;
    -h | --help)
        note "usage: vitrail-guest.sh [--user NAME] [--no-packages] [--init systemd|openrc|none] [--root DIR] [--uninstall]"
        exit 0
        ;;
    *) die "unknown option: $1 (see --help)" 2 ;;
    esac
    shift
done
case $init in '' | systemd | openrc | none) ;; *) die "--init is systemd, openrc or none" 2 ;; esac
[ -z "$root" ] || [ -d "$root" ] || die "$root is not a directory"
[ -n "$root" ] || [ "$(id -u)" = 0 ] || die "run it as root, in the guest"

# -- writing below the root ---------------------------------------------------------

# The file system at --root may be a hostile guest's: a symbolic link in it would lead
# out of it.  Without --root, links are the guest's own business.
inside() {
    [ -n "$root" ] || return 0
    at=$root
    rest=${1#/}
    while [ -n "$rest" ]; do
        at=$at/${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
        [ ! -L "$at" ] || die "$at is a symbolic link: run the installer in the guest instead"
    done
}

# make_directory PATH
make_directory() {
    inside "$1"
    mkdir -p "$root$1"
}

# put PATH MODE: standard input becomes that file.
put() {
    make_directory "${1%/*}"
    inside "$1"
    rm -f "$root$1"
    cat >"$root$1"
    chmod "$2" "$root$1"
    wrote "$1"
}

# link PATH TARGET
link() {
    make_directory "${1%/*}"
    rm -f "$root$1"
    ln -s "$2" "$root$1"
    wrote "$1"
}

wrote() {
    printf '%s\n' "$1" >>"$root$manifest.new"
}

# -- the guest ------------------------------------------------------------------------

# The guest's users, as far as anybody would have them.
accounts() {
    head -c 1048576 "$root/etc/passwd"
}

passwd_field() {
    accounts | awk -F: -v user="$user" -v field="$1" '$1 == user { print $field; exit }'
}

find_user() {
    inside /etc/passwd
    # A pipe would be waited for without an end.
    [ -f "$root/etc/passwd" ] || die "$root/etc/passwd is not a file"
    [ -n "$user" ] || user=${SUDO_USER:-}
    [ "$user" != root ] || user=
    if [ -z "$user" ]; then
        user=$(accounts | awk -F: '$3 >= 1000 && $3 < 60000 && $7 !~ /(nologin|false)$/ { print $1; exit }')
    fi
    [ -n "$user" ] || die "this guest has no ordinary user: make one (useradd -m NAME), or name one with --user"
    # It is written into units and scripts.
    case $user in
    -* | *[!A-Za-z0-9_.-]*) die "not the name of a user: $user" ;;
    esac
    uid=$(passwd_field 3)
    home=$(passwd_field 6)
    [ -n "$uid" ] || die "this guest has no user '$user' in /etc/passwd"
    case $uid in *[!0-9]*) die "user '$user' has the number '$uid'" ;; esac
    case $home in *[!A-Za-z0-9/_.-]* | '') die "the home directory of '$user' has characters that a unit cannot have" ;; esac
}

find_init() {
    [ -z "$init" ] || return 0
    if [ -n "$root" ]; then
        init=none
        [ ! -e "$root/sbin/openrc-run" ] || init=openrc
        [ ! -e "$root/usr/lib/systemd/systemd" ] || init=systemd
        [ ! -e "$root/lib/systemd/systemd" ] || init=systemd
    elif [ -d /run/systemd/system ] || [ -x /usr/lib/systemd/systemd ] || [ -x /lib/systemd/systemd ]; then
        init=systemd
    elif [ -x /sbin/openrc-run ]; then
        init=openrc
    else
        init=none
    fi
}

python_fits() {
    command -v python3 >/dev/null 2>&1 &&
        python3 -I -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null
}

waypipe_fits() {
    command -v waypipe >/dev/null 2>&1 || return 1
    # "waypipe 0.8.6"; the rewrite in Rust prints the same first line.
    number=$(waypipe --version 2>&1 | awk 'NR == 1 { print $2 }')
    case $number in 0.[0-7] | 0.[0-7].*) return 1 ;; *) return 0 ;; esac
}

add_packages() {
    [ -n "$packages" ] && [ -z "$root" ] || return 0
    ! python_fits || ! waypipe_fits || return 0
    hint=
    if command -v apt-get >/dev/null 2>&1; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 waypipe
    elif command -v dnf >/dev/null 2>&1; then
        dnf install -y python3 waypipe
    elif command -v pacman >/dev/null 2>&1; then
        # Without -y: a newer list of packages wants the whole system newer.
        hint="; is its list of packages old or missing? 'pacman -Syu' first"
        pacman -S --needed --noconfirm python waypipe
    elif command -v apk >/dev/null 2>&1; then
        hint="; waypipe is in the repository 'community' of /etc/apk/repositories"
        apk add --update-cache python3 waypipe
    else
        note "no package manager that this script knows: install python3 and waypipe yourself"
    fi || die "the packages python3 and waypipe cannot be installed$hint"
}

check_programs() {
    [ -z "$root" ] || return 0
    python_fits || die "Python 3.9 or later is missing: install the package python3"
    waypipe_fits || note "warning: waypipe 0.8 or later is missing; windows need it, install the package waypipe"
    [ -e /dev/vsock ] || note "warning: no /dev/vsock here: the machine has no vsock device, or vmw_vsock_virtio_transport is not loaded"
}

# -- the files ----------------------------------------------------------------------------

write_programs() {
    put $lib/vitrail_guest.py 755 <<'END_OF_VITRAIL_FILE'
@vitrail_guest.py@
END_OF_VITRAIL_FILE
    put $lib/vitrail_files.py 755 <<'END_OF_VITRAIL_FILE'
@vitrail_files.py@
END_OF_VITRAIL_FILE
    put $lib/vitrail_call.py 755 <<'END_OF_VITRAIL_FILE'
@vitrail_call.py@
END_OF_VITRAIL_FILE
    put $lib/vitrail_devices.py 755 <<'END_OF_VITRAIL_FILE'
@vitrail_devices.py@
END_OF_VITRAIL_FILE
    put $lib/vitrail_security_key.py 755 <<'END_OF_VITRAIL_FILE'
@vitrail_security_key.py@
END_OF_VITRAIL_FILE
    for name in open copy connect ssh-agent; do
        put /usr/local/bin/vitrail-$name 755 <<END_OF_VITRAIL_FILE
#!/bin/sh
exec python3 -I $lib/vitrail_files.py vitrail-$name "\$@"
END_OF_VITRAIL_FILE
    done
    for name in vitrail-call $qrexec; do
        put /usr/local/bin/$name 755 <<END_OF_VITRAIL_FILE
#!/bin/sh
exec python3 -I -S -c 'import sys; sys.path.insert(0, "$lib"); import vitrail_call; vitrail_call.run_call(sys.argv[1:])' $name "\$@"
END_OF_VITRAIL_FILE
    done
    # Programs written for Qubes call it by these names; the guest's own stay, and a
    # read-only /usr has none.
    for place in /usr/bin/$qrexec /usr/lib/qubes/$qrexec; do
        inside ${place%/*}
        if [ ! -e "$root$place" ] && [ ! -L "$root$place" ] &&
            mkdir -p "$root${place%/*}" 2>/dev/null &&
            ln -s /usr/local/bin/$qrexec "$root$place" 2>/dev/null; then
            wrote $place
        fi
    done
    put /usr/local/bin/vitrail-guest 755 <<END_OF_VITRAIL_FILE
#!/bin/sh
# Starts Vitrail's agent; the unit of this guest's init does it.
: "\${VITRAIL_RUNTIME:=\${XDG_RUNTIME_DIR:-\$HOME/.cache}/vitrail}"
XDG_DATA_DIRS=$lib/share:\${XDG_DATA_DIRS:-/usr/local/share:/usr/share}
export VITRAIL_RUNTIME XDG_DATA_DIRS
exec python3 -I $lib/vitrail_guest.py
END_OF_VITRAIL_FILE
}

write_environment() {
    # Toolkits ask desktop files who opens an address, not xdg-open.  Only the agent's
    # programs and shells without a display see this directory: a desktop in the guest
    # keeps its own browser.
    put $lib/share/applications/vitrail-open.desktop 644 <<'END_OF_VITRAIL_FILE'
[Desktop Entry]
Type=Application
Name=Open in another sandbox
Exec=/usr/local/bin/vitrail-open %u
MimeType=x-scheme-handler/http;x-scheme-handler/https;x-scheme-handler/mailto;
NoDisplay=true
END_OF_VITRAIL_FILE
    put $lib/share/applications/mimeapps.list 644 <<'END_OF_VITRAIL_FILE'
[Default Applications]
x-scheme-handler/http=vitrail-open.desktop
x-scheme-handler/https=vitrail-open.desktop
x-scheme-handler/mailto=vitrail-open.desktop
END_OF_VITRAIL_FILE
    put /etc/profile.d/vitrail.sh 644 <<END_OF_VITRAIL_FILE
# Made by Vitrail's guest package.  A shell without a display (of ssh, of a console)
# starts programs whose windows and sound Vitrail shows.
if [ -z "\${WAYLAND_DISPLAY:-}\${DISPLAY:-}" ]; then
    for vitrail_dir in "\${XDG_RUNTIME_DIR:-/nonexistent}/vitrail" /run/vitrail "\${HOME:-/nonexistent}/.cache/vitrail"; do
        [ -S "\$vitrail_dir/session/wayland-0" ] || continue
        export WAYLAND_DISPLAY="\$vitrail_dir/session/wayland-0" XDG_SESSION_TYPE=wayland
        export GDK_BACKEND=wayland QT_QPA_PLATFORM=wayland SDL_VIDEODRIVER=wayland MOZ_ENABLE_WAYLAND=1
        export PULSE_CLIENTCONFIG="\$vitrail_dir/pulse.conf" PULSE_SERVER="unix:\$vitrail_dir/session/pulse/native"
        export PATH="\$vitrail_dir/bin:\$PATH" BROWSER="\$vitrail_dir/bin/xdg-open"
        export XDG_DATA_DIRS="$lib/share:\${XDG_DATA_DIRS:-/usr/local/share:/usr/share}"
        break
    done
    unset vitrail_dir
fi
END_OF_VITRAIL_FILE
    put /etc/modules-load.d/vitrail.conf 644 <<'END_OF_VITRAIL_FILE'
# The guest's end of vsock, by which Vitrail's agent reaches the host.
vmw_vsock_virtio_transport
END_OF_VITRAIL_FILE
}

write_systemd() {
    put /etc/systemd/user/vitrail-guest.service 644 <<END_OF_VITRAIL_FILE
[Unit]
Description=Vitrail guest agent
# One agent for a guest: its programs are this user's.
ConditionUser=$user
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/local/bin/vitrail-guest
Environment=VITRAIL_RUNTIME=%t/vitrail
Restart=always
RestartSec=1

[Install]
WantedBy=default.target
END_OF_VITRAIL_FILE
    link /etc/systemd/user/default.target.wants/vitrail-guest.service ../vitrail-guest.service
    write_folders
    # The user's units start with the machine, not with the first login.
    linger=/var/lib/systemd/linger/$user
    if [ ! -e "$root$linger" ]; then
        put "$linger" 644 </dev/null
    fi
}

# The agent is the user's, and mount(8) is root's.
write_folders() {
    put $lib/vitrail-folder 755 <<'END_OF_VITRAIL_FILE'
#!/bin/sh
# Mounts or unmounts a folder that the host shares, for the agent: reads one line,
# "mount|unmount|force PLACE NAME", and answers "ok" or why not.
exec 2>&1
set -e
IFS=' ' read -r verb place name
case $place in [0-7]) ;; *) verb=none ;; esac
case $name in '' | . | .. | */*) verb=none ;; esac
device=/run/vitrail-folder-$place
path=/folders/$name
case $verb in
mount)
    mkdir -p "$device" "$path"
    mount -t virtiofs -o nosuid,nodev "vitrail-$place" "$device"
    mount -o bind "$device/here" "$path" || { umount "$device"; exit 1; }
    umount "$device"
    ;;
unmount)
    umount "$path"
    rmdir "$path"
    ;;
force)
    umount -f "$path" || umount -l "$path"
    rmdir "$path"
    ;;
*)
    echo "not a folder of Vitrail's: '$place' '$name'"
    exit 1
    ;;
esac
echo ok
END_OF_VITRAIL_FILE
    put /etc/systemd/system/vitrail-folders.socket 644 <<END_OF_VITRAIL_FILE
[Unit]
Description=Folders that the host shares with this machine

[Socket]
ListenStream=/run/vitrail-folders
SocketUser=$user
SocketMode=0600
Accept=yes
END_OF_VITRAIL_FILE
    put /etc/systemd/system/vitrail-folders@.service 644 <<END_OF_VITRAIL_FILE
[Unit]
Description=Mount a folder that the host shares with this machine

[Service]
ExecStart=$lib/vitrail-folder
StandardInput=socket
StandardOutput=socket
END_OF_VITRAIL_FILE
    link /etc/systemd/system/sockets.target.wants/vitrail-folders.socket ../vitrail-folders.socket
}

write_openrc() {
    put /etc/init.d/vitrail-guest 755 <<END_OF_VITRAIL_FILE
#!/sbin/openrc-run
# shellcheck shell=sh
description="Vitrail guest agent"
supervisor=supervise-daemon
command=/usr/local/bin/vitrail-guest
command_user=$user
respawn_delay=1
respawn_max=0
supervise_daemon_args="--env HOME=$home --env USER=$user --env LOGNAME=$user --env VITRAIL_RUNTIME=/run/vitrail"

depend() {
    after modules
}

start_pre() {
    checkpath --directory --owner $user --mode 0755 /run/vitrail
}
END_OF_VITRAIL_FILE
    link /etc/runlevels/default/vitrail-guest /etc/init.d/vitrail-guest
}

write_plain() {
    put /etc/xdg/autostart/vitrail-guest.desktop 644 <<'END_OF_VITRAIL_FILE'
[Desktop Entry]
Type=Application
Name=Vitrail guest agent
Exec=/usr/local/bin/vitrail-guest
NoDisplay=true
END_OF_VITRAIL_FILE
}

# -- starting ---------------------------------------------------------------------------------

# The user may have put another program in the place of this one's memory (ptrace(2)).
# With root's terminal as its controlling one it could type commands for root's shell
# (TIOCSTI, ioctl_tty(2)), with it open read root's keys, and with root's environment
# have its secrets.  So it has a session of its own, a pipe, and no terminal sequences.
as_user() {
    {
        ended=$({ {
            setsid setpriv --reuid "$uid" --regid "$(passwd_field 4)" --init-groups env -i \
                PATH=/usr/local/bin:/usr/bin:/bin HOME="$home" USER="$user" \
                XDG_RUNTIME_DIR="/run/user/$uid" "$@" </dev/null 2>&1 3>&- 4>&- &&
                echo 0 >&3 || echo $? >&3
        } | LC_ALL=C tr -cd '\11\12\40-\176' >&4; } 3>&1)
    } 4>&1
    return "$ended"
}

start() {
    [ -z "$root" ] || { note "installed into $root; the agent starts with the machine" && return 0; }
    case $init in
    systemd)
        [ -d /run/systemd/system ] || { note "installed; the agent starts with the machine" && return 0; }
        modprobe -q vmw_vsock_virtio_transport || note "note: the module vmw_vsock_virtio_transport was not loaded; it may be built in"
        systemctl start "user@$uid.service"
        systemctl daemon-reload
        systemctl restart vitrail-folders.socket
        as_user systemctl --user daemon-reload
        as_user systemctl --user restart vitrail-guest.service
        note "installed and started: 'systemctl --user status vitrail-guest' as $user"
        ;;
    openrc)
        if [ -d /run/openrc/started ]; then
            rc-service vitrail-guest restart
            note "installed and started: 'rc-service vitrail-guest status'"
        else
            note "installed; the agent starts with the machine"
        fi
        ;;
    none) note "installed; start 'vitrail-guest' as $user (a desktop session does it at login)" ;;
    esac
}

stop() {
    [ -z "$root" ] || return 0
    if [ -d /run/systemd/system ] && [ -e /etc/systemd/user/vitrail-guest.service ]; then
        systemctl stop vitrail-folders.socket || note "no folder could be mounted here"
        for directory in /run/user/*; do
            uid=${directory##*/}
            user=$(awk -F: -v uid="$uid" '$3 == uid { print $1; exit }' /etc/passwd)
            [ -n "$user" ] && [ -S "$directory/systemd/private" ] || continue
            home=$(passwd_field 6)
            as_user systemctl --user stop vitrail-guest.service || note "the agent of $user was not running"
        done
    elif [ -d /run/openrc/started ] && [ -e /etc/init.d/vitrail-guest ]; then
        rc-service vitrail-guest stop || note "the agent was not running"
    fi
}

remove_files() {
    inside "$manifest"
    [ -f "$root$manifest" ] || die "it is not installed here: $root$manifest is missing"
    stop
    while IFS= read -r path; do
        # The list is below the root too: nothing of it is followed out of there.
        case $path in
        */../* | */..) die "the manifest has the path $path" ;;
        $lib/* | /usr/local/bin/vitrail-* | /etc/*/*vitrail* | /var/lib/systemd/linger/*) ;;
        /usr/local/bin/$qrexec | /usr/bin/$qrexec | /usr/lib/qubes/$qrexec) ;;
        *) die "the manifest has the path $path" ;;
        esac
        inside "${path%/*}"
        rm -f "$root$path"
    done <"$root$manifest"
    inside "$lib/share/applications"
    rm -rf "$root${lib:?}"
    note "removed"
}

main() {
    if [ -n "$uninstall" ]; then
        remove_files
        return 0
    fi
    find_user
    find_init
    add_packages
    check_programs
    make_directory $lib
    inside $manifest.new
    rm -f "$root$manifest.new"
    # What an earlier run wrote is removed by a later --uninstall too.
    inside $manifest
    if [ -f "$root$manifest" ]; then cp "$root$manifest" "$root$manifest.new"; fi
    write_programs
    write_environment
    case $init in
    systemd) write_systemd ;;
    openrc) write_openrc ;;
    none) write_plain ;;
    esac
    # A device node there would be written to, a pipe waited for.
    rm -f "$root$manifest"
    sort -u "$root$manifest.new" >"$root$manifest"
    rm "$root$manifest.new"
    start
}

# The last line: the script may come through a pipe, which programs must not read from.
main </dev/null
