# Printed by .ci/packaging/recipe.py, of debian/control.
pkgs: [
  pkgs.bubblewrap
  pkgs.cpio
  pkgs.dejavu_fonts
  pkgs.e2fsprogs
  pkgs.fontconfig
  pkgs.genext2fs
  pkgs.iproute2
  pkgs.libnotify
  pkgs.libpulseaudio
  pkgs.libseccomp
  pkgs.libxkbcommon
  pkgs.lowdown
  pkgs.mmdebstrap
  pkgs.passt
  pkgs.pkgsStatic.busybox
  pkgs.procps
  pkgs.qemu
  pkgs.qemu-utils
  pkgs.shadow
  pkgs.systemd
  pkgs.xdg-dbus-proxy
  pkgs.xkeyboard_config
  pkgs.zstd
]
