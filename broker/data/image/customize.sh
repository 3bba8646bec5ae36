# Runs as a hook of mmdebstrap, as root of the user namespace it builds in:
# $1 is the new root file system.  KERNEL is the kernel's package.
set -eu
root=$1
boot="$root/var/tmp/vitrail-boot"

chroot "$root" useradd --uid 1000 --user-group --create-home --shell /bin/bash user
for group in audio video input render; do
    if chroot "$root" getent group "$group" >/dev/null; then
        chroot "$root" usermod --append --groups "$group" user
    fi
done
chroot "$root" python3 -I -c '
import py_compile
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
py_compile.compile("/usr/lib/vitrail/vitrail_guest.py", doraise=True, invalidation_mode=mode)
'

# A browser that is fresh at every start would show its welcome at every start.
if [ -d "$root/usr/lib/firefox-esr" ] || [ -d "$root/usr/lib/firefox" ]; then
    mkdir -p "$root/etc/firefox/policies"
    cat >"$root/etc/firefox/policies/policies.json" <<'POLICIES'
{"policies": {
  "OverrideFirstRunPage": "", "OverridePostUpdatePage": "",
  "DontCheckDefaultBrowser": true, "NoDefaultBookmarks": true,
  "DisableTelemetry": true, "DisableFirefoxStudies": true,
  "UserMessaging": {"WhatsNew": false, "ExtensionRecommendations": false,
    "FeatureRecommendations": false, "SkipOnboarding": true},
  "Preferences": {
    "datareporting.policy.dataSubmissionPolicyBypassNotification":
      {"Value": true, "Status": "default"},
    "browser.aboutwelcome.enabled": {"Value": false, "Status": "default"}
  }
}}
POLICIES
fi
if [ -d "$root/etc/chromium" ]; then
    printf '%s\n' '{"distribution": {"skip_first_run_ui": true, "suppress_first_run_default_browser_prompt": true}, "first_run_tabs": ["chrome://newtab"]}' \
        >"$root/etc/chromium/initial_preferences"
    mkdir -p "$root/etc/chromium.d"
    echo 'export CHROMIUM_FLAGS="$CHROMIUM_FLAGS --no-first-run --no-default-browser-check"' \
        >"$root/etc/chromium.d/vitrail"
fi

# Without a cache each start of a program reads every font, and a disposable sandbox
# forgets the user's own cache.  The package's trigger has made one and removed it: with
# SOURCE_DATE_EPOCH fc-cache(1) takes a cache for outdated whose directory is newer.
if [ -x "$root/usr/bin/fc-cache" ]; then
    for fonts in usr/share/fonts usr/local/share/fonts; do
        [ ! -d "$root/$fonts" ] ||
            find "$root/$fonts" -type d -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
    done
    chroot "$root" fc-cache -s -f
fi

# The kernel and the busybox of the initramfs come from the same archive; they
# are unpacked outside and are no part of the root file system.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
mkdir "$boot"
# The name given may be that of a metapackage, and newer suites have program and
# modules in packages of their own.
parts=$(apt-cache depends --recurse --important "$KERNEL" |
    sed -n -E 's/^(linux-(image|binary|modules|base)-[0-9][^ ]*)$/\1/p' | sort -u)
# shellcheck disable=SC2086  # words on purpose
(cd "$boot" && apt-get --quiet=2 -o APT::Sandbox::User=root download ${parts:-$KERNEL} busybox-static)
chroot "$root" dpkg-query --show --showformat='${Package}\t${Version}\n' >"$boot/packages"

# Different at each boot, or of the building machine.
rm -f "$root/etc/machine-id" "$root/etc/hostname" "$root/etc/resolv.conf" \
    "$root/var/cache/ldconfig/aux-cache" "$root/etc/.pwd.lock"
: >"$root/etc/machine-id"
