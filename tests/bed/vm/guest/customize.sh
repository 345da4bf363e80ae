#!/bin/bash
# customize.sh ROOT GUEST - what every guest has beyond its packages; mmdebstrap calls it
#
# The user under test is `builder` (uid 1000): subordinate ids, lingering, no right that an ordinary account lacks.
set -euo pipefail
root=$1 guest=$2

chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash builder
for f in subuid subgid; do
  # as in the bed (lib.sh): more than useradd gives
  sed -i '/^builder:/d' "$root/etc/$f" 2>/dev/null || true
  echo builder:100000:196608 >> "$root/etc/$f"
done
mkdir -p "$root/var/lib/systemd/linger" "$root"/etc/systemd/{journald.conf.d,system/user@.service.d,system/systemd-udev-trigger.service.d}
: > "$root/var/lib/systemd/linger/builder"
# Debian 12's podman without it takes vfs.
mkdir -p "$root/etc/containers"
printf '[storage]\ndriver = "overlay"\n' > "$root/etc/containers/storage.conf"

# An identity from the start: systemd never takes its first-boot path.
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
echo bryo-bed > "$root/etc/hostname"
touch "$root/etc/.updated" "$root/var/.updated"
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n' > "$root/etc/systemd/journald.conf.d/bed.conf"
# What an administrator of a host for rootless builds delegates; systemd's own default lacks cpuset and io.
printf '[Service]\nDelegate=cpu cpuset io memory pids\n' > "$root/etc/systemd/system/user@.service.d/delegate.conf"

# Never wanted in a guest that lives for a minute or two. System units only: the user's podman.socket stays.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service \
  systemd-timesyncd.service netavark-dhcp-proxy.service netavark-dhcp-proxy.socket netavark-firewalld-reload.service \
  podman-auto-update.timer podman-auto-update.service podman-restart.service podman.service podman.socket \
  podman-clean-transient.service getty@tty1.service console-getty.service systemd-pstore.service \
  systemd-boot-update.service systemd-hwdb-update.service ldconfig.service systemd-ask-password-wall.path \
  systemd-ask-password-console.path systemd-random-seed.service systemd-update-utmp.service systemd-firstboot.service \
  systemd-tpm2-setup.service systemd-tpm2-setup-early.service sys-kernel-debug.mount sys-kernel-tracing.mount \
  dev-hugepages.mount modprobe@drm.service modprobe@configfs.service sys-kernel-config.mount \
  systemd-udev-load-credentials.service systemd-modules-load.service apparmor.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# A driver for everything that QEMU emulates would cost seconds: only what a guest uses is looked for.
printf '[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=tty\n' \
  > "$root/etc/systemd/system/systemd-udev-trigger.service.d/bed.conf"

install -m 755 "$guest/bryo-bed-guest" "$root/usr/local/sbin/bryo-bed-guest"
install -m 644 "$guest/bryo-bed.service" "$guest/bryo-bed.target" "$root/etc/systemd/system/"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* \
  "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/resolv.conf
