#!/bin/bash
# run-vm.sh [-s GUEST] [-i DIR] [-t SECONDS] [-b SECONDS] [-n TRIES] [-m MIB] PAYLOAD OUT - one run in a booted guest
#
#   PAYLOAD     a directory with run.sh, which root runs in the guest, with $BED_PAYLOAD (that directory) and $BED_OUT
#   OUT         gets what run.sh left in $BED_OUT, and: log (its output), rc, uptime, journal, console (serial port)
#   -s, -i      the guest: one of build-rootfs.sh (default bookworm; trixie, trixie-selinux), or in DIR
#   -t, -b      the limits of a whole run (600) and of the boot until run.sh begins (180)
#   -n          how often a guest that did not get as far as run.sh is started (3)
#   -m          memory of the guest (2048)
#
# The exit status is run.sh's; 124 time limit; 125 no try got to run.sh; 126 run.sh began and its results never came.
# Only what is the emulator's fault is tried again: after run.sh began, a failure is reported and never repeated.
#
# QEMU emulates the processor (TCG): no KVM, no root, no /dev. BRYO_BED_QEMU names another qemu-system-x86_64.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/../lib.sh"

suite=bookworm image='' limit=600 boot=180 tries=3 memory=2048
while getopts s:i:t:b:n:m: o; do
  case $o in
    s) suite=$OPTARG ;;
    i) image=$OPTARG ;;
    t) limit=$OPTARG ;;
    b) boot=$OPTARG ;;
    n) tries=$OPTARG ;;
    m) memory=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 2 ] || usage
payload=$1 out=$2
image=${image:-$BED_CACHE/$suite}
qemu=${BRYO_BED_QEMU:-qemu-system-x86_64}
[ -x "$payload/run.sh" ] || die "$payload has no run.sh"
[ -s "$image/key" ] || die "no guest in $image: make it with build-rootfs.sh"
mkdir -p "$out"
rm -f "$out"/{rc,log,uptime,journal,console,qemu.log}

work=$(mktemp -d "${TMPDIR:-/var/tmp}/bryo-vm.XXXXXX")
pid=
# shellcheck disable=SC2317  # called by the trap
clear_away() {
  [ -z "$pid" ] || kill -9 "$pid" 2>/dev/null || true
  rm -rf "$work"
}
trap clear_away EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

tar -C "$payload" --owner=0 --group=0 --mode=u=rwX,go=rX -cf "$work/payload.tar" .
# -cx16 is essential with QEMU 7.2 (Debian 12): its CMPXCHG16B leaves garbage in the flags, and the kernel's slab
#   allocator lives on that instruction: random oopses within seconds. Without the CPU flag the kernel does not use it.
# Nehalem is translated about a fifth faster than `max`. One processor on one thread is the faster choice for tests that
#   run one thing at a time.
# Only / is on NVMe: several such controllers are probed in parallel and numbered by luck. The other disks are found by
#   their serial numbers.
# shellcheck disable=SC2054  # the commas are QEMU's
machine=(-nodefaults -no-user-config -display none -no-reboot -machine q35 -accel tcg,thread=single -cpu Nehalem,-cx16
  -smp 1 -m "$memory" -kernel "$image/vmlinuz" -serial "file:$work/console"
  -drive "if=none,id=root,file=$image/rootfs.ext4,format=raw,snapshot=on" -device nvme,drive=root,serial=root
  -drive "if=none,id=payload,file=$work/payload.tar,format=raw,readonly=on" -device virtio-blk-pci,drive=payload,serial=payload
  -drive "if=none,id=out,file=$work/out.img,format=raw" -device virtio-blk-pci,drive=out,serial=out)
# An oops ends the guest at once (oops=panic panic=-1 and -no-reboot) instead of leaving it half alive.
# A host that is busy may not serve the emulated disk for longer than the half minute after which the kernel gives up on it.
kernel="console=ttyS0 loglevel=4 nvme_core.io_timeout=600 root=/dev/nvme0n1 rw rootwait rootfstype=ext4 systemd.unit=bryo-bed.target"
kernel+=" mitigations=off $(cat "$image/security") nokaslr oops=panic panic=-1 random.trust_cpu=on"
kernel+=" systemd.show_status=0 cgroup_no_v1=all systemd.unified_cgroup_hierarchy=1"

began() { grep -aq BRYO-BED-START "$work/console"; }
for ((try = 1; try <= tries; try++)); do
  rm -f "$work/out.img"
  truncate -s 256M "$work/out.img"
  : > "$work/console"
  start=$SECONDS begun='' why=''
  # the snapshot of the root disk goes to TMPDIR
  TMPDIR=$work "$qemu" "${machine[@]}" -append "$kernel" < /dev/null > "$work/qemu.log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    spent=$((SECONDS - start))
    if [ -z "$begun" ] && began; then begun=$spent; fi
    if [ -z "$begun" ] && [ "$spent" -ge "$boot" ]; then why="no boot within $boot s"; kill -9 "$pid"; break; fi
    if [ "$spent" -ge "$limit" ]; then why="time limit of $limit s"; kill -9 "$pid"; break; fi
    sleep 0.2
  done
  status=0
  wait "$pid" || status=$?
  pid=
  spent=$((SECONDS - start))
  if [ -z "$begun" ] && began; then begun=$spent; fi
  cp "$work/console" "$work/qemu.log" "$out/"
  if [ -n "$begun" ]; then
    tar -C "$out" --no-same-owner -xf "$work/out.img" 2>/dev/null || true
    say "try $try: booted in $begun s, ran $spent s, rc $(cat "$out/rc" 2>/dev/null || echo none) $why"
    if grep -aq BRYO-BED-END "$out/console" && [ -s "$out/rc" ]; then exit "$(cat "$out/rc")"; fi
    case $why in time*) exit 124 ;; *) exit 126 ;; esac
  fi
  say "try $try: never got to run.sh: ${why:-qemu ended with $status after $spent s}"
  { grep -aoE 'Kernel panic.*|Oops:.*|BUG:.*|RIP: .*' "$work/console" | head -3; tail -3 "$work/qemu.log"; } >&2 || true
done
exit 125
