#!/bin/sh
# A program of this machine in a box, in its frame on a compositor without a screen.
set -eux
# A container may forbid what a box is made of.
unshare --user --map-root-user --pid --fork true || exit 77
export WLR_BACKENDS=headless WLR_LIBINPUT_NO_DEVICES=1 WLR_RENDERER=pixman
printf 'default_border none\n' > sway.conf
sway --config sway.conf >sway.log 2>&1 &
sway=$!
trap 'kill $sway; wait $sway || :' EXIT
seconds=0
until socket=$(find "$XDG_RUNTIME_DIR" -maxdepth 1 -name 'wayland-*' -type s | grep .); do
    seconds=$((seconds + 1))
    if [ "$seconds" -gt 60 ]; then cat sway.log; exit 1; fi
    sleep 1
done
WAYLAND_DISPLAY=$(basename "$socket")
export WAYLAND_DISPLAY
brokerctl run --bwrap -- foot >box.log 2>&1 &
seconds=0
# The picture has as many pixels of the label's colour as a frame at least.
until grim picture.png && /usr/lib/vitrail/bin/python3 -c '
from PIL import Image
pixels = Image.open("picture.png").convert("RGB").getcolors(1 << 24)
frame = sum(n for n, pixel in pixels if pixel == (0xD5, 0x5E, 0x00))
print(frame, "pixels of the frame")
raise SystemExit(frame < 2000)'; do
    seconds=$((seconds + 1))
    if [ "$seconds" -gt 60 ]; then cat box.log sway.log; exit 1; fi
    sleep 1
done
brokerctl list
brokerctl audit connections | grep vitrail.Display
brokerctl stop --broker
