#!/bin/bash
# build-rootfs.sh [-s SUITE] [-v VARIANT] [-o DIR] [-f] - makes a bootable Debian guest for run-vm.sh, once, and keeps it
#
#   -s SUITE  bookworm (default) or trixie
#   -v VARIANT  apparmor (default), or selinux: Debian's policy, enforced, with all files labelled; trixie only
#   -o DIR    default: ${BRYO_BED_CACHE:-~/.cache/bryo-bed}/SUITE, or SUITE-selinux
#   -f        make it again although nothing changed
#
# DIR gets
#   rootfs.ext4   sparse image of 3 GiB; a run never writes to it
#   vmlinuz       the guest's kernel, which has NVMe and ext4 built in: no initrd
#   security      the guest's security modules, as words for its kernel
#   key           what it was made of; equal key, nothing to do
# The key has the date of the archive's release file, so a point release makes a new guest. Where the archive cannot be
# reached a guest that is there is used as it is.
#
# Works as root and as an ordinary user with subordinate ids. The mirror is the one this machine's apt uses; nothing of
# this machine is left in the guest.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/../lib.sh"

suite=bookworm variant=apparmor out='' force='' size=3G
while getopts s:v:o:f o; do
  case $o in
    s) suite=$OPTARG ;;
    v) variant=$OPTARG ;;
    o) out=$OPTARG ;;
    f) force=1 ;;
    *) usage ;;
  esac
done
module=$here/../../../packaging/selinux/bryo.cil
case $variant in
  apparmor) out=${out:-$BED_CACHE/$suite} more=apparmor parts=() ;;
  # Debian 12's policy has no containers.
  selinux) out=${out:-$BED_CACHE/$suite-selinux} more=selinux-policy-default,selinux-utils,policycoreutils parts=("$module") ;;
  *) usage ;;
esac
[ "$variant" != selinux ] || [ "$suite" = trixie ] || die "SELinux: only trixie has a policy with containers"

# What a host of Bryo has, and jq, with which the payloads read reports.
packages=systemd,systemd-sysv,udev,kmod,dbus,dbus-user-session,libpam-systemd,ca-certificates,iproute2
packages+=,git,crun,podman,uidmap,passt,slirp4netns,golang-github-containers-common,jq
packages+=,$more,linux-image-cloud-amd64
[ "$(uname -m)" = x86_64 ] || die "the guest is amd64, and so must be the bryo that runs in it; this is $(uname -m)"

mapfile -t sources < <(debian_sources "$suite")
mirror=${sources[0]#deb }
mirror=${mirror%% *}
work=$(mktemp -d "${TMPDIR:-/var/tmp}/bryo-rootfs.XXXXXX")
# root of mmdebstrap's user namespace is a subordinate id, which must be able to pass through
chmod 755 "$work"
trap 'rm -rf --one-file-system "$work"' EXIT

stamp=
if timeout 30 /usr/lib/apt/apt-helper download-file "${mirror%/}/dists/$suite/InRelease" "$work/InRelease" > /dev/null 2>&1; then
  stamp=$(sed -n 's/^Date: //p' "$work/InRelease" | head -1)
fi
key=$({ cat "$here/build-rootfs.sh" "$here"/guest/* "${parts[@]}"; echo "$suite $packages $size $stamp"; } | sha256sum)
if [ -z "$force" ] && [ -s "$out/key" ]; then
  if [ -z "$stamp" ]; then say "the archive cannot be reached: uses $out as it is"; exit; fi
  if [ "$(cat "$out/key")" = "$key" ]; then say "$out is up to date"; exit; fi
fi

options=()
while IFS= read -r o; do options+=(--aptopt="$o"); done < <(apt_acquire_options)
if [ "$EUID" = 0 ]; then mode=root; else mode=unshare; fi
# INITRD=No: with the drivers of the root disk built in, none is needed, which saves seconds at each emulated boot
hooks=(--customize-hook="'$here/guest/customize.sh' \"\$1\" '$here/guest'")
if [ "$variant" = selinux ]; then hooks+=(--customize-hook="'$here/guest/selinux.sh' \"\$1\" '$module'"); fi
HOME=$work TMPDIR=$work INITRD=No mmdebstrap --quiet --mode="$mode" --variant=minbase --include="$packages" "${options[@]}" \
  --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt=force-unsafe-io \
  --dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/locale/* --dpkgopt=path-exclude=/usr/share/doc/* \
  "${hooks[@]}" \
  "$suite" "$work/rootfs.tar" "${sources[@]}"
lap "guest $suite, $variant: mmdebstrap"

# No journal: a run's changes are thrown away. Lazy initialisation: nothing to write zeros to.
cat > "$work/finish" <<'END'
set -eu
tree=$1/tree
mkdir "$tree"
tar -C "$tree" --exclude='./dev/*' --xattrs --xattrs-include='*' -xf "$1/rootfs.tar"
cp "$tree"/boot/vmlinuz-* "$1/new/vmlinuz"
labels=$tree/var/tmp/labels
if [ -e "$labels" ]; then mv "$labels" "$1/labels"; fi
truncate -s "$2" "$1/new/rootfs.ext4"
mkfs.ext4 -q -F -d "$tree" -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 -L root -m 0 "$1/new/rootfs.ext4"
rm -rf "$tree"
# Written into the file system itself: only root of a host that knows labels could give them to files.
if [ -e "$1/labels" ]; then
  awk -F'\t' '$2 != "<<none>>" { printf "ea_set \"%s\" security.selinux %s\n", $1, $2 }' "$1/labels" > "$1/commands"
  debugfs -w -f "$1/commands" "$1/new/rootfs.ext4" > "$1/debugfs" 2>&1
  # What the last clean-up of the tree removed is not found.
  if grep -v -e '^debugfs' -e 'File not found by ext2_lookup' "$1/debugfs" >&2; then exit 1; fi
fi
END
mkdir "$work/new"
as=()
if [ "$EUID" != 0 ]; then as=(unshare --map-root-user --map-auto); fi
"${as[@]}" sh "$work/finish" "$work" "$size"
case $variant in
  apparmor) echo "audit=0 lsm=landlock,capability,yama,apparmor" ;;
  # Without audit the kernel does not say what it refused.
  selinux) echo "audit=1 lsm=landlock,capability,yama,selinux enforcing=1 log_buf_len=4M" ;;
esac > "$work/new/security"
echo "$key" > "$work/new/key"
mkdir -p "$(dirname "$out")"
rm -rf --one-file-system "$out"
mv "$work/new" "$out"
lap "guest $suite, $variant: file system"
say "$out: $(du -h "$out/rootfs.ext4" | cut -f1)"
