#!/bin/bash
# network.sh PROGRAM (guest, builder) - isolated jobs on both runtimes; PROGRAM (slirp4netns or pasta) is the only network
# program that the guest has at the moment. Prints ok or FAIL per check
#
# The guest has 192.0.2.1 on a device that leads nowhere, and 198.51.100.1 on another one: whoever answers there is the
# guest itself. The second is asked for, because pasta gives a job the addresses of the device with the default route, and
# what is the job's own cannot be the guest's.
set -uo pipefail
program=$1
work=$(mktemp -d ~/network.XXXXXX)
cd "$work" || exit 1
systemd-socket-activate --listen=0.0.0.0:8080 --accept --inetd cat > /dev/null 2>&1 &
listener=$!
trap 'kill $listener; rm -rf "$work"' EXIT
bad=0
ok() { echo "ok    $*"; }
fail() { echo "FAIL  $*"; bad=1; }

export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=bed GIT_AUTHOR_EMAIL=bed@localhost GIT_COMMITTER_NAME=bed \
  GIT_COMMITTER_EMAIL=bed@localhost
git init --quiet --initial-branch=main source
cat > source/build.sh <<'END'
try() { if nc -w 3 "$1" "$2" < /dev/null > /dev/null 2>&1; then echo "$1:$2 open"; else echo "$1:$2 closed"; fi; }
try 198.51.100.1 8080 > /output/reached
try 10.0.2.2 8080 >> /output/reached
try 169.254.169.254 80 >> /output/reached
nslookup build.example > /output/name 2>&1
if grep -q '203\.0\.113\.7' /output/name; then echo 'name known'; else echo 'name unknown'; fi >> /output/reached
END
git -C source add build.sh
git -C source commit --quiet --message one
for ((i = 0; i < 100; i++)); do
  if (: < /dev/tcp/198.51.100.1/8080) 2>/dev/null; then break; fi
  sleep 0.1
done

job() { # job NAME WANTED OPTION... - WANTED: whether the guest's own address is reached
  local name=network-$program-$runtime-$1 wanted="198.51.100.1:8080 $2 10.0.2.2:8080 closed 169.254.169.254:80 closed name known" rc
  shift 2
  bryo run source --image "oci-archive:$BED_PAYLOAD/busybox.tar" --output out --runtime "$runtime" --network isolated \
    --timeout 120s --json "$@" -- sh /repo/build.sh > "$BED_OUT/$name.json" 2> "$BED_OUT/$name.stderr"
  rc=$?
  if [ $rc = 0 ] && [ "$(tr '\n' ' ' < out/reached)" = "$wanted " ]; then ok "$name"; else
    fail "$name: exit $rc, $(tr '\n' ' ' < out/reached)"
    tail -3 "$BED_OUT/$name.stderr" | sed 's/^/      | /'
  fi
  jq --exit-status '.resources.network_sent_bytes != null and .leftovers == []' "$BED_OUT/$name.json" > /dev/null ||
    fail "$name: its report"
}

# A Bryo that is killed takes its job's network program along; podman's own goes with the container, at the next attempt.
killed() {
  local i
  runtime=crun
  bryo run source --image "oci-archive:$BED_PAYLOAD/busybox.tar" --output out --runtime crun --network isolated \
    -- sh -c 'echo started; sleep 1000' > "$work/said" 2>&1 &
  for ((i = 0; i < 300; i++)); do
    if grep -q started "$work/said"; then break; fi
    sleep 0.1
  done
  kill -9 $!
  wait $! 2>/dev/null
  for ((i = 0; i < 100; i++)); do
    if ! cat /proc/[0-9]*/comm 2>/dev/null | grep -qE "^(${program:0:15}|pasta.avx2|sleep)\$"; then
      ok "network-$program-killed"
      job after-the-kill closed
      return
    fi
    sleep 0.1
  done
  fail "network-$program-killed: $(cat /proc/[0-9]*/comm | sort | uniq -c | tr '\n' ' ')"
}

for runtime in crun podman; do
  echo "== network by $program, $runtime"
  if [ "$program $runtime" = "pasta podman" ] && podman --version | grep -q ' 4\.[0-3]\.'; then
    echo "skip  this podman knows no pasta"
    continue
  fi
  job closed closed
  job open open --reach-host
  job allowed open --reach-host --allow 198.51.100.1:8080/tcp
  job denied closed --reach-host --deny 198.51.100.0/24
  job elsewhere closed --reach-host --allow 203.0.113.0/24
done
killed
exit $bad
