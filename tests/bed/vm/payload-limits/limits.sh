#!/bin/bash
# limits.sh service|leaf|session (guest, builder) - jobs against their limits, on both runtimes; prints ok or FAIL per check
#
#   service  each bryo is the main process of a service with Delegate=yes, as an agent is: it sits at the top of its tree
#   leaf     bryo is started by a shell in a leaf below a delegated cgroup that it may use
#   session  bryo is started from a login session, which owns no cgroup: it has to ask the user's systemd for one
#
# Every job is followed by a look for what it left: a cgroup, a mount, a process, a container. Assertions are on what the
# kernel says and on the report, never on the words of a message.
set -uo pipefail
mode=$1
image=oci-archive:$BED_PAYLOAD/busybox.tar
work=$(mktemp -d ~/limits.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
start=()
case $mode in
  service) start=(systemd-run --user --wait --pipe --quiet --collect --same-dir -p Delegate=yes -E "PATH=$PATH") ;;
  leaf)
    delegated=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
    mkdir "$delegated/init"
    echo $$ > "$delegated/init/cgroup.procs" || exit 1
    ;;
  session) ;;
esac
bad=0 rc=0 report=
ok() { echo "ok    $*"; }
fail() { echo "FAIL  $*"; bad=1; }
check() { # check NAME COMMAND... - success is what is wanted
  local name=$1
  shift
  if "$@"; then ok "$name"; else fail "$name"; fi
}

# -- a source ---------------------------------------------------------------------------------------------------------
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=bed GIT_AUTHOR_EMAIL=bed@localhost GIT_COMMITTER_NAME=bed \
  GIT_COMMITTER_EMAIL=bed@localhost
git init --quiet --initial-branch=main source
echo hello > source/README
git -C source add README
git -C source commit --quiet --message one

# -- what is there before and after -----------------------------------------------------------------------------------
# One program for each look: under emulation a fork costs 10 ms. systemd's and podman's own comings and goings are not
# the job's: the socket-activated service, podman's pause process.
own='podman\.service|podman-pause|user@1000\.service/(user|session)\.slice|dbus\.service|init\.scope|session-'
cgroups() { find /sys/fs/cgroup/user.slice -type d -regextype posix-extended ! -regex ".*($own).*"; }
mounts() { cut -d' ' -f5- /proc/self/mountinfo; }
# everything of the subordinate ids, and the user's own programs that belong to a container
processes() {
  cat /proc/[0-9]*/status 2>/dev/null | awk '$1 == "Name:" { name = $2 } $1 == "Pid:" { pid = $2 }
    $1 == "Uid:" && ($2 >= 100000 || $2 == 1000 && name ~ /^(bryo|conmon|crun|slirp4netns|pasta)/) { print name, pid }'
}
baseline() { cgroups > "$work/cgroups"; mounts > "$work/mounts"; processes > "$work/processes"; }
left() { # left NAME - nothing that was not there before, at once or within the second that an exited conmon needs
  local what found i
  for what in cgroups mounts processes; do
    for ((i = 0; i < 5; i++)); do
      found=$("$what" | grep -vxF -f "$work/$what")
      [ -n "$found" ] || break
      sleep 0.2
    done
    [ -z "$found" ] || fail "$1: left behind ($what): ${found//$'\n'/, }"
  done
}

# -- a job ------------------------------------------------------------------------------------------------------------
job() { # job NAME OPTION... -- COMMAND... ; sets rc and report. No ${...} in it: systemd-run would expand it
  local name=$mode-$runtime-$1 begin=$EPOCHREALTIME timeout=(--timeout 120s)
  shift
  case " $* " in *' --timeout '*) timeout=() ;; esac
  report=$BED_OUT/$name.json
  "${start[@]}" bryo run source --image "$image" --output "$work/out" --runtime "$runtime" --network none "${timeout[@]}" --grace 1s \
    --json "$@" > "$report" 2> "$BED_OUT/$name.stderr"
  rc=$?
  awk -v n="$name" -v a="$begin" -v b="$EPOCHREALTIME" -v rc=$rc 'BEGIN { printf "      %s: %.1f s, exit %d\n", n, b - a, rc }'
  if [ $rc -gt 1 ]; then tail -5 "$BED_OUT/$name.stderr" | sed 's/^/      | /'; fi
  left "$name"
}
# shellcheck disable=SC2317  # called by check
says() { # says FILTER - jq finds the filter true of the report
  jq --exit-status "$1" "$report" > /dev/null
}

# -- what one situation shows for all ---------------------------------------------------------------------------------
further() {
  # shellcheck disable=SC2016
  job fork-bomb --pids 64 -- sh -c 'bomb() { bomb | bomb & }; bomb; sleep 3; exit 1'
  check "fork bomb: verdict" says '.verdict == "pids_limit"'
  check "fork bomb: no more processes than allowed" says '.resources.pids_peak == null or .resources.pids_peak <= 64'

  job usage --cpus 0.2 -- sh -c 'echo x > /output/x; timeout 6 sh -c "while :; do :; done"; exit 0'
  check "--cpus: exit 0" test $rc = 0
  check "--cpus: seen in the time used" says '.resources.cpu_us / 1000 < ([.stages[] | select(.stage == "run").ms][0] * 0.4)'

  job weight --cpu-weight 20 --memory 96m --memory-high 80m -- sh -c 'echo x > /output/x'
  check "weight and soft bound: in force" says '.limits.cpu_weight == 20 and .limits.memory_high == 83886080'

  job io -- sh -c 'dd if=/dev/zero of=/output/x bs=1048576 count=16 conv=fsync'
  check "io: exit 0" test $rc = 0
  check "io: bytes written are counted" says '.resources.io_written_bytes >= 16777216'

  job io-write --io-write 4m -- sh -c 'dd if=/dev/zero of=/output/x bs=1048576 count=16 conv=fsync'
  check "--io-write: in force" says '.limits.io_write == 4194304'
  check "--io-write: as slow as that" says '[.stages[] | select(.stage == "run").ms][0] > 2500'

  job disk --disk 16m -- sh -c 'echo x > /output/x; dd if=/dev/zero of=/tmp/x bs=1048576 count=500'
  check "--disk: verdict" says '.verdict == "disk_limit" and .limit_reached == "disk"'
  check "--disk: in force" says '.limits.disk == 16777216 and .resources.disk_peak_bytes > 16777216'
}

host_memory() {
  # without a limit of its own, three times 900 MB, more than the guest has; the kernel chooses the largest process,
  # which is the job's
  job host-memory -- sh -c 'for i in 1 2 3; do (tail -c 900000000 /dev/zero > /dev/null; echo > /tmp/ended) & done
    while [ ! -e /tmp/ended ]; do sleep 1; done; exit 3'
  check "the host out of memory: verdict" says '.verdict == "out_of_memory" and .limit_reached == "host_memory"'
}

for runtime in crun podman; do
  echo "== $mode, $runtime"
  baseline
  # the first job warms what is there to stay: podman's store and pause process, the cache
  job plain -- sh -c 'echo site > /output/index.html'
  check "a plain job succeeds" test $rc = 0
  check "its report" says '.verdict == "succeeded" and .exit_code == 0 and .runtime == "'$runtime'"'
  check "nothing left, says bryo" says '(.leftovers // []) == []'
  baseline

  # each podman has its own way from our system-call filter to the runtime's
  job nests -- sh -c 'busybox --list | grep -qx unshare && ! unshare -U true && echo x > /output/x'
  check "a job makes no namespaces" test $rc = 0

  job memory --memory 64m -- sh -c 'echo x > /output/x; tail -c 200000000 /dev/zero > /dev/null'
  check "out of memory: exit 1" test $rc = 1
  check "out of memory: verdict" says '.verdict == "out_of_memory" and .limit_reached == "memory"'
  # the guest has swap in which the job would fit: it gets none of it
  check "out of memory: swap is off" says '.limits.swap == 0'
  check "out of memory: the kernel killed" says '.resources.oom_kills >= 1'
  check "out of memory: limit in force" says '.limits.memory == 67108864'
  check "out of memory: peak within the limit" says '.resources.memory_peak_bytes == null or .resources.memory_peak_bytes <= 67108864'

  # it is the child that takes it, and the kernel ends all of the job
  job memory-child --memory 64m -- sh -c 'echo x > /output/x; tail -c 200000000 /dev/zero > /dev/null; exit 3'
  check "a child out of memory: exit 1" test $rc = 1
  check "a child out of memory: verdict" says '.verdict == "out_of_memory" and .limit_reached == "memory"'
  check "a child out of memory: the kernel killed" says '.resources.oom_kills >= 1'

  # shellcheck disable=SC2016
  job pids --pids 8 -- sh -c 'echo x > /output/x; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 20 & done; wait'
  check "fork beyond --pids: exit 1" test $rc = 1
  check "fork beyond --pids: verdict" says '.verdict == "pids_limit" and .limit_reached == "pids"'
  check "fork beyond --pids: counted" says '.resources.pids_refused >= 1'
  check "fork beyond --pids: limit in force" says '.limits.pids == 8'

  job within --memory 64m --pids 8 -- sh -c 'echo x > /output/x; sleep 1 & wait'
  check "within the limits: exit 0" test $rc = 0

  # what the kernel has been told, seen while the job runs
  (
    for ((i = 0; i < 300; i++)); do
      if find /sys/fs/cgroup/user.slice -name cpu.max -exec grep -l '^50000 100000$' {} + > "$work/cpu" 2>/dev/null; then exit; fi
      sleep 0.1
    done
  ) &
  watcher=$!
  job cpus --cpus 0.5 -- sh -c 'echo x > /output/x; sleep 5'
  kill $watcher 2>/dev/null
  wait $watcher 2>/dev/null
  check "--cpus: exit 0" test $rc = 0
  check "--cpus: cpu.max of a cgroup while it ran" test -s "$work/cpu"
  check "--cpus: limit in force" says '.limits.cpus == 0.5'

  job timeout --timeout 10s -- sh -c 'echo x > /output/x; sleep 1000'
  check "never ends: exit 1" test $rc = 1
  check "never ends: verdict" says '.verdict == "timed_out"'
  # 10 s and 1 s of grace, and room for emulation; podman takes 20 s to notice a container whose conmon was killed too
  check "never ends: ended when it had to" says '.total_ms < 18000'

  case $mode in
    service) further ;;
    leaf) host_memory ;;
    *) ;;
  esac

  job daemon -- sh -c 'echo x > /output/x; setsid sleep 1000 & sleep 0.5'
  check "leaves a daemon: exit 0" test $rc = 0
done
check "podman has no container" test -z "$(podman ps --all --quiet)"
exit $bad
