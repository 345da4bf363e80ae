#!/bin/bash
# bench.sh - how long a job of Bryo takes beside the same work done by hand; writes docs/benchmarks.md
#
# One machine, one run, all ways in turn within each round, so that a disturbance meets all of them. Medians: a mean would
# measure the other users of the machine. ROUNDS (30) and WARM_UP (3) rounds that are not counted.
# Raw times and reports: target/bench/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh

tests/bed/install-packages.sh build run demo
cargo build --release --locked --package bryo
images/build busybox
target=$(target_directory)
if [ "$EUID" = 0 ]; then ensure_bed_user; fi
work=$(throwaway_dir bench)
trap 'rm -rf --one-file-system "$work"' EXIT

BRYO_BIN=$target/release/bryo BRYO_TEST_IMAGES=$repo/images BRYO_BENCH_ROUNDS=${ROUNDS:-30} BRYO_BENCH_WARM_UP=${WARM_UP:-3} \
  tests/bed/as-user.sh --podman --see "$target" -- scripts/bench-rounds.sh "$work"
rm -rf "$target/bench"
cp -r "$work/results" "$target/bench"

median() { # median FILE - of its numbers, in milliseconds
  sort -n "$1" | awk '{ v[NR] = $1 } END { printf "%.1f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
tenth() { sort -n "$1" | awk '{ v[NR] = $1 } END { n = int(NR * 0.9 + 0.5); printf "%.1f", v[n < 1 ? 1 : n] }'; }
stages() { # stages NAME FILTER - the median of what FILTER takes from each report of NAME
  jq -r "$2" "$work/results/$1".*.json > "$work/column"
  if [ -s "$work/column" ]; then median "$work/column"; else echo –; fi
}
ratio() { awk -v a="$(median "$work/results/$1")" -v b="$(median "$work/results/$2")" 'BEGIN { printf "%.2f", a / b }'; }
row() { # row NAME WHAT BASELINE...
  printf '| %s | %s | %s |' "$2" "$(median "$work/results/$1")" "$(tenth "$work/results/$1")"
  printf ' %s | %s |\n' "$(ratio "$1" crun)" "$(ratio "$1" podman)"
}

{
  cat <<END
# Benchmarks

Made by \`make bench\`; not edited by hand. The job writes one small file, its source is a repository with one file, its
image is busybox and is already there: what is left is what a runner itself costs.

$(date -u +%Y-%m-%d), $(nproc) processors, Linux $(uname -r), $(crun --version | head -1), $(podman --version), $(git --version);
median and ninth decile of ${ROUNDS:-30} rounds, in milliseconds of wall-clock time, whole process each.

| | median | 9/10 | to bare crun | to podman by hand |
|---|---:|---:|---:|---:|
END
  # shellcheck disable=SC2016  # Markdown's own quotes
  {
    row crun 'bare `crun run` of the same root file system, no network'
    row bryo-crun '`bryo run --runtime crun --network none`'
    row bryo-crun-isolated '`bryo run --runtime crun --network isolated`'
    row podman '`git worktree add` + `podman run --network none` by hand'
    row bryo-podman '`bryo run --runtime podman --network none`'
  }
  cat <<END

Where the time of Bryo goes (medians of the stages in its reports):

| stage | crun, none | crun, isolated | podman, none |
|---|---:|---:|---:|
END
  ways=(bryo-crun bryo-crun-isolated bryo-podman)
  for stage in fetch prepare run collect publish; do
    printf '| %s |' "$stage"
    for way in "${ways[@]}"; do printf ' %s |' "$(stages "$way" ".stages[] | select(.stage == \"$stage\") | .ms")"; done
    echo
  done
  printf '| first stage to end of clean-up |'
  for way in "${ways[@]}"; do printf ' %s |' "$(stages "$way" .total_ms)"; done
  printf '\n| job started to output published (run, collect, publish) |'
  for way in "${ways[@]}"; do
    printf ' %s |' "$(stages "$way" '[.stages[] | select(.stage == "run" or .stage == "collect" or .stage == "publish") | .ms] | add')"
  done
  printf '\n| the same with prepare, which waits for the user namespace |'
  for way in "${ways[@]}"; do printf ' %s |' "$(stages "$way" '[.stages[] | select(.stage != "fetch") | .ms] | add')"; done
  cat <<END


From the signal that cancels to the moment at which no process of the job is left:

| | median | 9/10 | longest |
|---|---:|---:|---:|
END
  for way in crun podman; do
    printf '| %s | %s | %s | %s |\n' "$way" "$(median "$work/results/cancel-$way")" "$(tenth "$work/results/cancel-$way")" \
      "$(sort -n "$work/results/cancel-$way" | tail -1)"
  done
  cat <<END

What is not in the run stage of bare crun and is in ours: the user namespace with subordinate ids (newuidmap and newgidmap,
begun before the source is looked up), the overlay, the mounts of the contract, the cgroup with its read-back, and their
removal. With a network the kernel takes some 20 ms to remove the job's network device, and Bryo waits until it has.
END
} > "$work/benchmarks.md"
cp "$work/benchmarks.md" docs/benchmarks.md
if [ "$EUID" = 0 ]; then chown --reference=docs docs/benchmarks.md; fi
cat docs/benchmarks.md
