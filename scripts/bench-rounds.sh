#!/bin/bash
# bench-rounds.sh WORK - the measured part of bench.sh, as an ordinary user; not called by anyone else
#
# WORK/results gets for each way a file with one time per line, in milliseconds, and the reports of bryo. Each way does
# the same: the file /output/index.html exists in a directory of its own afterwards. A round that did not, ends the bench.
set -euo pipefail
work=$1
mkdir -p "$work/results"
cd "$work"
job='echo hello > /output/index.html'

export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=bench GIT_AUTHOR_EMAIL=bench@localhost GIT_COMMITTER_NAME=bench \
  GIT_COMMITTER_EMAIL=bench@localhost
git init --quiet --initial-branch=main source
echo hello > source/README
git -C source add README
git -C source commit --quiet --message one

# -- bare crun: the bundle that crun itself proposes, with the same two mounts and the same command --------------------
mkdir -p bundle/rootfs image crun-output
tar -C image -xf "$BRYO_TEST_IMAGES/busybox.tar"
for blob in image/blobs/sha256/*; do
  if gzip -t "$blob" 2>/dev/null; then tar -C bundle/rootfs --no-same-owner -xzf "$blob"; fi
done
mkdir -p bundle/rootfs/repo bundle/rootfs/output
(cd bundle && crun spec --rootless)
jq --arg job "$job" --arg source "$work/source" --arg output "$work/crun-output" --arg cgroup "${BRYO_TEST_CGROUP#/sys/fs/cgroup}/bench" '
  .process.terminal = false | .process.args = ["/bin/sh", "-c", $job] | .process.env = ["PATH=/bin"]
  | .mounts += [{destination: "/repo", type: "bind", source: $source, options: ["bind", "ro"]},
                {destination: "/output", type: "bind", source: $output, options: ["bind", "rw"]}]
  | .linux.cgroupsPath = $cgroup | .linux.resources = {}
  | .linux.namespaces |= (map(select(.type != "network" and .type != "cgroup")) + [{type: "network"}, {type: "cgroup"}])
' bundle/config.json > config && mv config bundle/config.json

podman load --quiet --input "$BRYO_TEST_IMAGES/busybox.tar" > /dev/null
image=$(podman images --quiet | head -1)
echo "$image" > podman-image

run_crun() { crun --root "$XDG_RUNTIME_DIR/bench" --cgroup-manager=cgroupfs run --bundle bundle bench; }
run_podman() {
  mkdir podman-output
  git -C source worktree add --quiet --detach ../tree HEAD
  podman run --rm --network=none --volume "$work/tree:/repo:ro" --volume "$work/podman-output:/output" "$image" sh -c "$job"
  git -C source worktree remove ../tree
}
run_bryo() { # run_bryo NAME RUNTIME NETWORK
  "$BRYO_BIN" run source --image "oci-archive:$BRYO_TEST_IMAGES/busybox.tar" --output "$1-output" --runtime "$2" \
    --network "$3" --json -- sh -c "$job" > report.json
}
timed() { # timed ROUND NAME COMMAND...
  local round=$1 name=$2 begin end
  shift 2
  rm -rf "$name-output"/* "$name-output"/.[!.]*
  if [ "$name" = podman ]; then rm -rf podman-output; fi
  begin=$EPOCHREALTIME
  "$@" 2> stderr || { cat stderr >&2; echo "bench: $name failed" >&2; exit 1; }
  end=$EPOCHREALTIME
  [ -s "$name-output/index.html" ] || { echo "bench: $name made no output" >&2; exit 1; }
  [ "$round" -gt 0 ] || return 0
  awk -v a="$begin" -v b="$end" 'BEGIN { printf "%.2f\n", (b - a) * 1000 }' >> "results/$name"
  if [ -s report.json ]; then mv report.json "results/$name.$round.json"; fi
}
# From the signal that cancels to the moment at which the kernel says that no process of the job is left. The job handles no
# signal, so nothing of it is the job's own time. Looked at without starting a program.
cancelled() { # cancelled ROUND RUNTIME
  local pid line events begin end
  rm -f said
  mkfifo said
  "$BRYO_BIN" run source --image "oci-archive:$BRYO_TEST_IMAGES/busybox.tar" --output cancelled-output --runtime "$2" \
    --network none -- sh -c 'echo started >&2; while :; do sleep 1000; done' > /dev/null 2> said &
  pid=$!
  exec 9< said
  while read -r -u 9 line; do
    if [ "$line" = started ]; then break; fi
  done
  events=$(echo "$BRYO_TEST_CGROUP"/bryo-01*/cgroup.events)
  begin=$EPOCHREALTIME
  kill -TERM $pid
  while read -r line 2>/dev/null < "$events" && [ "$line" = 'populated 1' ]; do :; done
  end=$EPOCHREALTIME
  wait $pid || [ $? = 130 ] || { echo "bench: a cancelled job ended with $?" >&2; exit 1; }
  exec 9<&-
  [ "$1" -gt 0 ] || return 0
  awk -v a="$begin" -v b="$end" 'BEGIN { printf "%.2f\n", (b - a) * 1000 }' >> "results/cancel-$2"
}
for ((round = 1 - BRYO_BENCH_WARM_UP; round <= BRYO_BENCH_ROUNDS; round++)); do
  timed $round crun run_crun
  timed $round bryo-crun run_bryo bryo-crun crun none
  timed $round bryo-crun-isolated run_bryo bryo-crun-isolated crun isolated
  timed $round podman run_podman
  timed $round bryo-podman run_bryo bryo-podman podman none
  cancelled $round crun
  cancelled $round podman
done

# -- attempts in a process that keeps running --------------------------------------------------------------------------------
rounds=$BRYO_BENCH_ROUNDS
parallel=()
for lanes in 1 2 8 32; do
  each=$((rounds * 2 / lanes))
  parallel+=("parallel:$lanes:$((each < 2 ? 2 : each)):9")
done
for files in 2000 20000 60000; do "$BRYO_BENCH_AGENT" "$work" "source-memory:$files"; done
"$BRYO_BENCH_AGENT" "$work" "source-update:20000:$((rounds < 15 ? rounds : 15))"
"$BRYO_BENCH_AGENT" "$work" "warm:$((rounds * 2))" "podman:$rounds" "${parallel[@]}" "output:10:5" "output:100:5" \
  "cancel-crun:$((rounds * 7))" "cancel-podman:$((rounds * 7 / 2))"
