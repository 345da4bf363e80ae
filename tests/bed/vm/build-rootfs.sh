#!/bin/bash
# build-rootfs.sh [-s SUITE] [-o DIR] [-f] - makes a bootable Debian guest for run-vm.sh, once, and keeps it
#
#   -s SUITE  bookworm (default) or trixie
#   -o DIR    default: ${BRYO_BED_CACHE:-~/.cache/bryo-bed}/SUITE
#   -f        make it again although nothing changed
#
# DIR gets
#   rootfs.ext4   sparse image of 3 GiB; a run never writes to it
#   vmlinuz       the guest's kernel, which has NVMe and ext4 built in: no initrd
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

suite=bookworm out='' force='' size=3G
while getopts s:o:f o; do
  case $o in
    s) suite=$OPTARG ;;
    o) out=$OPTARG ;;
    f) force=1 ;;
    *) usage ;;
  esac
done
out=${out:-$BED_CACHE/$suite}

# What a host of Bryo has, and jq, with which the payloads read reports.
packages=systemd,systemd-sysv,udev,kmod,dbus,dbus-user-session,libpam-systemd,ca-certificates,iproute2
packages+=,git,crun,podman,uidmap,passt,slirp4netns,golang-github-containers-common,jq
packages+=,apparmor,linux-image-cloud-amd64
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
key=$({ cat "$here/build-rootfs.sh" "$here"/guest/*; echo "$suite $packages $size $stamp"; } | sha256sum)
if [ -z "$force" ] && [ -s "$out/key" ]; then
  if [ -z "$stamp" ]; then say "the archive cannot be reached: uses $out as it is"; exit; fi
  if [ "$(cat "$out/key")" = "$key" ]; then say "$out is up to date"; exit; fi
fi

options=()
while IFS= read -r o; do options+=(--aptopt="$o"); done < <(apt_acquire_options)
if [ "$EUID" = 0 ]; then mode=root; else mode=unshare; fi
# INITRD=No: with the drivers of the root disk built in, none is needed, which saves seconds at each emulated boot
# shellcheck disable=SC2016
HOME=$work TMPDIR=$work INITRD=No mmdebstrap --quiet --mode="$mode" --variant=minbase --include="$packages" "${options[@]}" \
  --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt=force-unsafe-io \
  --dpkgopt=path-exclude=/usr/share/man/* --dpkgopt=path-exclude=/usr/share/locale/* --dpkgopt=path-exclude=/usr/share/doc/* \
  --customize-hook="'$here/guest/customize.sh' \"\$1\" '$here/guest'" \
  "$suite" "$work/rootfs.tar" "${sources[@]}"
lap "guest $suite: mmdebstrap"

# No journal: a run's changes are thrown away. Lazy initialisation: nothing to write zeros to.
cat > "$work/finish" <<'END'
set -eu
tree=$1/tree
mkdir "$tree"
tar -C "$tree" --exclude='./dev/*' --xattrs --xattrs-include='*' -xf "$1/rootfs.tar"
cp "$tree"/boot/vmlinuz-* "$1/new/vmlinuz"
truncate -s "$2" "$1/new/rootfs.ext4"
mkfs.ext4 -q -F -d "$tree" -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 -L root -m 0 "$1/new/rootfs.ext4"
rm -rf "$tree"
END
mkdir "$work/new"
as=()
if [ "$EUID" != 0 ]; then as=(unshare --map-root-user --map-auto); fi
"${as[@]}" sh "$work/finish" "$work" "$size"
echo "$key" > "$work/new/key"
mkdir -p "$(dirname "$out")"
rm -rf --one-file-system "$out"
mv "$work/new" "$out"
lap "guest $suite: file system"
say "$out: $(du -h "$out/rootfs.ext4" | cut -f1)"
