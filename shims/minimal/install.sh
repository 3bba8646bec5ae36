# -- the minimal agent ------------------------------------------------------------------

add_packages() {
    [ -n "$packages" ] && [ -z "$root" ] && ! waypipe_fits || return 0
    if command -v apt-get >/dev/null 2>&1; then
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends waypipe
    elif command -v dnf >/dev/null 2>&1; then
        dnf install -y waypipe
    elif command -v pacman >/dev/null 2>&1; then
        pacman -S --needed --noconfirm waypipe
    elif command -v apk >/dev/null 2>&1; then
        apk add --update-cache waypipe
    fi || die "the package waypipe cannot be installed"
}

check_programs() {
    [ -z "$root" ] || return 0
    [ "$(uname -m)" = "@machine@" ] || die "this installer is for @machine@, and the guest is $(uname -m)"
    waypipe_fits || note "warning: waypipe 0.8 or later is missing; windows need it, install the package waypipe"
    [ -e /dev/vsock ] || note "warning: no /dev/vsock here: the machine has no vsock device, or vmw_vsock_virtio_transport is not loaded"
}

write_programs() {
    base64 -d <<'END_OF_VITRAIL_FILE' | put $lib/vitrail-agent 755
@vitrail-agent@
END_OF_VITRAIL_FILE
    for name in agent open copy; do
        link /usr/local/bin/vitrail-$name $lib/vitrail-agent
    done
}

write_environment() {
    put /etc/modules-load.d/vitrail.conf 644 <<'END_OF_VITRAIL_FILE'
# The guest's end of vsock, by which Vitrail's agent reaches the host.
vmw_vsock_virtio_transport
END_OF_VITRAIL_FILE
}

# A unit of the system: a small guest has no service manager of the user's.
write_systemd() {
    put /etc/systemd/system/vitrail-agent.service 644 <<END_OF_VITRAIL_FILE
[Unit]
Description=Vitrail guest agent, minimal
StartLimitIntervalSec=0

[Service]
User=$user
RuntimeDirectory=vitrail
Environment=HOME=$home XDG_RUNTIME_DIR=/run/vitrail VITRAIL_RUNTIME=/run/vitrail/agent
ExecStart=$lib/vitrail-agent
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
END_OF_VITRAIL_FILE
    link /etc/systemd/system/multi-user.target.wants/vitrail-agent.service ../vitrail-agent.service
}

write_openrc() {
    put /etc/init.d/vitrail-agent 755 <<END_OF_VITRAIL_FILE
#!/sbin/openrc-run
# shellcheck shell=sh
description="Vitrail guest agent, minimal"
supervisor=supervise-daemon
command=$lib/vitrail-agent
command_user=$user
respawn_delay=1
respawn_max=0
supervise_daemon_args="--env HOME=$home --env USER=$user --env XDG_RUNTIME_DIR=/run/vitrail --env VITRAIL_RUNTIME=/run/vitrail/agent"

depend() {
    after modules
}

start_pre() {
    checkpath --directory --owner $user --mode 0700 /run/vitrail
}
END_OF_VITRAIL_FILE
    link /etc/runlevels/default/vitrail-agent /etc/init.d/vitrail-agent
}

write_plain() {
    note "start $lib/vitrail-agent as $user, with HOME and XDG_RUNTIME_DIR"
}

start() {
    if [ -z "$root" ] && [ "$init" = systemd ] && [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl restart vitrail-agent.service
    elif [ -z "$root" ] && [ "$init" = openrc ] && [ -d /run/openrc/started ]; then
        rc-service vitrail-agent restart
    fi
    note "installed the minimal agent"
}

stop() {
    [ -z "$root" ] || return 0
    [ ! -d /run/systemd/system ] || systemctl stop vitrail-agent.service || note "the agent was not running"
    [ ! -d /run/openrc/started ] || rc-service vitrail-agent stop || note "the agent was not running"
}

