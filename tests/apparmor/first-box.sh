# As the user ada: a broker, and a terminal in a box with a frame.
set -eu
cd
export WLR_BACKENDS=headless WLR_RENDERER=pixman WLR_LIBINPUT_NO_DEVICES=1
step() { echo "box: $(cut -d. -f1 /proc/uptime) s: $*"; }
# until_true SECONDS COMMAND...
until_true() {
    seconds=$1
    shift
    until "$@" >/dev/null 2>&1; do
        seconds=$((seconds - 1))
        [ "$seconds" -gt 0 ] || { echo "box: gave up: $*"; cat run.log; exit 1; }
        sleep 1
    done
}
: > run.log
setsid sway >sway.log 2>&1 &
until_true 60 test -S "$XDG_RUNTIME_DIR/wayland-1"
export WAYLAND_DISPLAY=wayland-1
SWAYSOCK=$(ls "$XDG_RUNTIME_DIR"/sway-ipc.*.sock)
export SWAYSOCK
brokerctl doctor | grep -E 'AppArmor|namespaces|bubblewrap'
setsid vitrail-local 2>&1 | cat >run.log &
until_true 120 grep -q ready run.log
step "the broker is ready"
window() { swaymsg -t get_tree | grep -q '\] foot"'; }
# Emulated, the first worker may take longer than its deadline: then again.
for _ in 1 2 3; do
    setsid brokerctl run --bwrap -- foot >box.log 2>&1 &
    box=$!
    seconds=90
    until window || ! kill -0 "$box" 2>/dev/null || [ "$seconds" = 0 ]; do
        sleep 1
        seconds=$((seconds - 1))
    done
    if window; then break; fi
done
window || { cat box.log run.log; exit 1; }
step "the window is on the screen"
sleep 2
grim /tmp/box.png
for process in /proc/[0-9]*; do
    label=$(cat "$process/attr/apparmor/current" 2>/dev/null) || continue
    case $label in *vitrail*) echo "label $(cat "$process/comm") $label" ;; esac
done
