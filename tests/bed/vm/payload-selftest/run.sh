#!/bin/bash
# run.sh (guest, root) - what payload-limits takes for granted, without bryo: for finding out whose fault a failure is
#
# A lingering user's manager with all controllers, a delegated service, a login session, crun and podman with limits
# that the kernel enforces.
set -uo pipefail
bad=0
check() { # check NAME COMMAND... - success is what is wanted
  local name=$1 begin=$SECONDS
  shift
  if "$@"; then echo "ok    $name ($((SECONDS - begin)) s)"; else echo "FAIL  $name"; bad=1; fi
}
# root must not have the user's XDG_RUNTIME_DIR: even `crun --version` would leave a directory of root's in it
unset XDG_RUNTIME_DIR
builder() {
  setpriv --reuid builder --regid builder --init-groups env -i PATH="$PATH" HOME=/home/builder USER=builder LOGNAME=builder \
    XDG_RUNTIME_DIR=/run/user/1000 "$@"
}
systemctl --version | head -1
echo "$(uname -r), $(builder podman --version), $(builder crun --version | head -1)"
check "unified cgroups" test "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs
check "user manager" systemctl is-active --quiet user@1000.service
# shellcheck disable=SC2016
check "login session" runuser -l builder -c 'grep -q session /proc/self/cgroup && echo "  $(cat /proc/self/cgroup) $XDG_RUNTIME_DIR"'
# shellcheck disable=SC2016
check "delegated service has controllers" builder systemd-run --user --wait --pipe --quiet -p Delegate=yes bash -c '
  c=$(cat /sys/fs/cgroup$(sed s/^0::// /proc/self/cgroup)/cgroup.controllers); echo "  $c"; [[ $c = *cpu*memory*pids* ]]'
# systemd-run itself expands ${...}: none of that in its arguments
# shellcheck disable=SC2016
check "the kernel enforces a memory limit" builder systemd-run --user --wait --pipe --quiet -p OOMPolicy=continue \
  -p MemoryMax=32M -p MemorySwapMax=0 bash -c 'set -o pipefail; head -c 100000000 /dev/zero 2>/dev/null | { tr "\0" x; true; } 2>/dev/null | sort > /dev/null; test $? = 137'
check "podman socket" builder systemctl --user start podman.socket
check "podman answers" builder podman --url unix:///run/user/1000/podman/podman.sock info \
  --format '  {{.Host.CgroupManager}} {{.Store.GraphDriverName}} {{.Host.CgroupControllers}}'
# the exit status of a service is handed on: payload-limits depends on it
builder systemd-run --user --wait --pipe --quiet --collect -p Delegate=yes sh -c 'exit 7'
check "systemd-run hands on the exit status" test $? = 7
exit $bad
