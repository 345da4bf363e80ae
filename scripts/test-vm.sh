#!/bin/bash
# test-vm.sh [SUITE] - what needs a kernel of its own, in a Debian guest booted under QEMU
#
#   bookworm, trixie   limits, networks, AppArmor, the agent as a service of the user's systemd
#   trixie-selinux     labels of jobs, where SELinux is enforced
#
# Needs no KVM and, but for missing packages, no root. Takes about two minutes, and one more the first time.
# What the guest reported is left in target/vm/SUITE: the log, one JSON report for each job, the journal, the console.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh
[ $# -le 1 ] || usage

# The guest must have a C library that is not older than the one bryo was linked with.
suite=${1:-}
if [ -z "$suite" ]; then
  suite=bookworm
  if [ "$(. /etc/os-release 2>/dev/null; echo "${VERSION_CODENAME:-}")" != bookworm ]; then suite=trixie; fi
fi

tests/bed/install-packages.sh build vm
cargo build --release --locked --package bryo --package bryo-stories --bin bryo --bin bryo-stand-in
images/build busybox
case $suite in
  *-selinux) variant=selinux payload_of=payload-selinux ;;
  *) variant=apparmor payload_of=payload-limits ;;
esac
tests/bed/vm/build-rootfs.sh -s "${suite%-selinux}" -v "$variant"

target=$(target_directory)
payload=$(mktemp -d)
trap 'rm -rf "$payload"' EXIT
cp "tests/bed/vm/$payload_of"/* "$payload/"
cp "$target/release/bryo" "$target/release/bryo-stand-in" images/busybox.tar config/systemd/user/bryo-agent.* "$payload/"
rm -rf "$target/vm/$suite"
status=0
tests/bed/vm/run-vm.sh -s "$suite" -t 1500 "$payload" "$target/vm/$suite" || status=$?
cat "$target/vm/$suite/log" 2>/dev/null || say "no log came back; the console is in $target/vm/$suite/console"
exit $status
