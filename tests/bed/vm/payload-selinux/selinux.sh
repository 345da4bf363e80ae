#!/bin/bash
# selinux.sh before|after (guest, builder) - the labels of jobs; prints ok or FAIL per check
#
#   before  Bryo's policy module is not loaded: a job without output is no job, so it is refused
#   after   it is loaded: jobs run, with labels that are proved
set -uo pipefail
mode=$1
work=$(mktemp -d ~/selinux.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
bad=0 rc=0
ok() { echo "ok    $*"; }
fail() {
  echo "FAIL  $*"
  bad=1
  tail -3 "$BED_OUT/$mode-$name.stderr" | cut -c1-500 | sed 's/^/      | /'
}
check() { # check WHAT COMMAND... - success is what is wanted
  local what=$1
  shift
  if "$@"; then ok "$what"; else fail "$what (exit code $rc)"; fi
}
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=bed GIT_AUTHOR_EMAIL=bed@localhost GIT_COMMITTER_NAME=bed \
  GIT_COMMITTER_EMAIL=bed@localhost
git init --quiet --initial-branch=main source
mkdir source/dir
echo hello > source/dir/README
ln -s dir/README source/link
git -C source add .
git -C source commit --quiet --message one

run=(systemd-run --user --wait --pipe --quiet --collect --same-dir -p Delegate=yes -E "PATH=$PATH")
job() { # job NAME OPTION... -- COMMAND... ; sets rc
  name=$1
  shift
  rm -rf out
  case " $* " in *' --network '*) ;; *) set -- --network none "$@" ;; esac
  "${run[@]}" bryo run source --image "oci-archive:$BED_PAYLOAD/busybox.tar" --output out --timeout 120s --json \
    "$@" > "$BED_OUT/$mode-$name.json" 2> "$BED_OUT/$mode-$name.stderr"
  rc=$?
}
report() { jq --raw-output "$1" "$BED_OUT/$mode-$name.json"; }
# Reads all that a job may read, writes wherever it may write, and says what it is.
# shellcheck disable=SC2016  # the job's own
everything='set -e; cat /repo/link; cat /repo/.git/packed-refs /etc/hosts /etc/resolv.conf > /tmp/read
  find /repo -type f -exec cat {} + > /tmp/source
  for at in /output /tmp /dev/shm; do mkdir $at/d; echo x > $at/d/f; done; cp /bin/busybox /output/d/sh; /output/d/sh -c :
  echo said on purpose >&2; tr -d "\0" < /proc/self/attr/current > /output/label'
labelled() { # labelled [TYPE] - the job ran, in a container's domain with two categories, and the report says so
  [ $rc = 0 ] && grep -Eqx "system_u:system_r:${1:-container_t}:s0:c[0-9]+,c[0-9]+" out/label &&
    [ "$(report .selinux_label)" = "$(cat out/label)" ] && grep -qx hello "$BED_OUT/$mode-$name.stderr" &&
    grep -q 'said on purpose' "$BED_OUT/$mode-$name.stderr"
}
unlabelled() { ! labelled && [ $rc = 0 ] && grep -q :unconfined_t: out/label && [ "$(report .selinux_label)" = null ]; }
refused() { # refused WORDS - it never ran
  [ $rc = 3 ] && [ ! -e out ] && report .reason | grep -q "$1" && ! grep -q hello "$BED_OUT/$mode-$name.stderr"
}

for runtime in crun podman; do
  echo "== $runtime, $mode"
  if [ "$mode" = before ]; then
    job "$runtime" --runtime $runtime -- sh -c "$everything"
    check "a policy without a job's pipes is refused" refused 'fifo_file.*bryo.cil'
    continue
  fi
  job "$runtime" --runtime $runtime -- sh -c "$everything"
  check "a job has a label" labelled
  check "what is published has the label of its place" grep -q ':user_home_t:' <(stat -c %C out/label out/d/f)
  job "$runtime-read-only" --runtime $runtime --read-only --network isolated -- sh -c "$everything"
  check "with a read-only root and a network" labelled
  job "$runtime-type" --runtime $runtime --selinux container_kvm_t -- sh -c "$everything"
  check "with a type of the owner's choice" labelled container_kvm_t
  job "$runtime-unknown" --runtime $runtime --selinux nobody_knows_t -- sh -c "$everything"
  check "an unknown type is refused" refused nobody_knows_t
  job "$runtime-off" --runtime $runtime --selinux off -- sh -c "$everything"
  check "one without a label is seen not to have one" unlabelled
done
[ "$mode" = after ] || exit $bad

# anew - the podman service reads its configuration again
anew() {
  systemctl --user restart podman.service
  podman --remote --url "unix://$XDG_RUNTIME_DIR/podman/podman.sock" version > /dev/null
}
echo "== runtimes that set no label"
mkdir -p bin ~/.config/containers
cat > bin/crun <<'END'
#!/bin/bash
# crun, for which no host has SELinux
for ((i = 1; i < $#; i++)); do
  next=$((i + 1))
  [ "${!i}" != --bundle ] || config=${!next}/config.json
done
if [ -n "${config:-}" ]; then jq 'del(.process.selinuxLabel)' "$config" > "$config.new" && mv "$config.new" "$config"; fi
exec /usr/bin/crun "$@"
END
chmod 755 bin/crun
chmod 711 ~ . bin
run+=(-E "PATH=$work/bin:$PATH")
job crun-silent --runtime crun -- sh -c "$everything"
check "crun that sets none is found out before the job runs" refused 'did not label'
run+=(-E "PATH=$PATH")
printf '[containers]\nlabel = false\n' > ~/.config/containers/containers.conf
anew
job podman-silent --runtime podman -- sh -c "$everything"
check "podman that sets none is found out before the job runs" refused 'SELinux label'
rm ~/.config/containers/containers.conf
anew

echo "== two jobs"
for runtime in crun podman; do
  "${run[@]}" --unit "two-$runtime" bryo run source --image "oci-archive:$BED_PAYLOAD/busybox.tar" --output "out-$runtime" \
    --network none --timeout 120s --json --runtime $runtime -- sh -c 'echo x > /output/file; echo ready; sleep 1000' \
    > "$BED_OUT/$mode-two-$runtime.json" 2> "$BED_OUT/$mode-two-$runtime.stderr" &
done
for ((i = 0; i < 600; i++)); do
  both=$(grep -lx ready "$BED_OUT/$mode"-two-*.stderr | wc -l)
  [ "$both" -lt 2 ] || break
  sleep 0.1
done
mapfile -t files < <(stat -c %C ~/.cache/bryo/work/*/output/file)
mapfile -t processes < <(cat /proc/[0-9]*/attr/current 2>/dev/null | tr '\0' '\n' | grep :container_t: | sort -u)
systemctl --user stop two-crun two-podman
wait
name=two-crun
may() { # may PROCESS FILE - whether the kernel's policy lets the one read the other
  local class bit answer allowed
  class=$(cat /sys/fs/selinux/class/file/index) bit=$(cat /sys/fs/selinux/class/file/perms/read)
  exec {fd}<> /sys/fs/selinux/access
  printf '%s %s %d ffffffff' "$1" "$2" "$class" >&"$fd"
  read -r -d '' answer <&"$fd"
  exec {fd}>&-
  allowed=$((16#${answer%% *}))
  [ $((allowed >> (bit - 1) & 1)) = 1 ]
}
check "both ran at once: ${processes[*]}, ${files[*]}" [ "${#processes[@]},${#files[@]}" = 2,2 ]
level() { cut -d: -f4- <<< "$1"; }
for process in "${processes[@]}"; do
  for file in "${files[@]}"; do
    if [ "$(level "$process")" = "$(level "$file")" ]; then
      check "a job can read its own" may "$process" "$file"
    else
      check "and not the other's" eval '! may "$process" "$file"'
    fi
  done
done
check "their categories differ" [ "$(level "${processes[0]}")" != "$(level "${processes[1]:-}")" ]
exit $bad
