#!/bin/bash
# bench.sh - how long a job of Bryo takes beside the same work done by hand; writes docs/benchmarks.md
#
# One machine, one run, all ways in turn within each round, so that a disturbance meets all of them. Medians: a mean would
# measure the other users of the machine. ROUNDS (30) and WARM_UP (3) rounds that are not counted. Whole processes are timed by
# scripts/bench-rounds.sh, attempts in a process that keeps running by the program in bench/, which that script starts.
# Raw times and reports: target/bench/. With S3=1 publishing to a real store is measured too, which is built first if there is
# none (half an hour).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh

tests/bed/install-packages.sh build run demo
cargo build --release --locked --package bryo --package bryo-bench
images/build busybox
target=$(target_directory)
if [ "$EUID" = 0 ]; then ensure_bed_user; fi
work=$(throwaway_dir bench)
trap 'rm -rf --one-file-system "$work"' EXIT

BRYO_BIN=$target/release/bryo BRYO_BENCH_AGENT=$target/release/bryo-bench BRYO_TEST_IMAGES=$repo/images \
  BRYO_BENCH_ROUNDS=${ROUNDS:-30} BRYO_BENCH_WARM_UP=${WARM_UP:-3} \
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
hundredth() { sort -n "$1" | awk '{ v[NR] = $1 } END { n = int(NR * 0.99 + 0.5); printf "%.1f", v[n < 1 ? 1 : n] }'; }
beside() { # beside NAME WHAT BASELINE - a row with the ratio to what stands in BASELINE
  printf '| %s | %s | %s | %s | %s |\n' "$2" "$(median "$work/results/$1")" "$(tenth "$work/results/$1")" "$(ratio "$1" "$3")" \
    "$(ratio "$1.cpu" "$3.cpu")"
}
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

## In a process that keeps running

One engine in one process, as an agent has it: its helper is there, checkout and image are cached, and what the next job needs
of the host (a worker that waits; where there is a network, that and its namespaces) is made while the one before runs. The
source is an address and a commit, as a server names it. A whole attempt each, from the call to the report, on one thread.

| | median | 9/10 | to its baseline | processor time, to its baseline |
|---|---:|---:|---:|---:|
END
  # shellcheck disable=SC2016  # Markdown's own quotes
  {
    beside warm-bare-crun 'bare `crun run`, no network' warm-bare-crun
    beside warm-crun 'attempt on crun, no network' warm-bare-crun
    beside warm-crun-isolated 'attempt on crun, network isolated' warm-bare-crun
    beside warm-crun-on-disk 'attempt on crun, no network, cache and work directory on the disk' warm-bare-crun
    beside warm-bare-podman '`podman run --network none`' warm-bare-podman
    beside warm-podman 'attempt on podman, no network' warm-bare-podman
  }
  cat <<END

So many at once, milliseconds for each job that ends; jobs on crun without network, each lane starts its next one when one ends:

| at once | bare crun | attempts | throughput, to bare crun | processor time, to bare crun |
|---:|---:|---:|---:|---:|
END
  for lanes in 1 2 8 32; do
    at=parallel-$lanes
    printf '| %s | %s | %s | %s | %s |\n' "$lanes" "$(median "$work/results/$at-bare")" "$(median "$work/results/$at-bryo")" \
      "$(ratio "$at-bare" "$at-bryo")" "$(ratio "$at-bryo.cpu" "$at-bare.cpu")"
  done
  cat <<END

A job that prints, into a file; bare crun writes into it, of an attempt the listener does. Memory is the peak of the process
with the engine, in MiB:

| | bare crun | attempt | ratio | peak before | peak |
|---|---:|---:|---:|---:|---:|
END
  for mib in 10 100; do
    at=output-$mib
    printf '| %s MiB | %s | %s | %s | %s | %s |\n' "$mib" "$(median "$work/results/$at-bare")" "$(median "$work/results/$at-bryo")" \
      "$(ratio "$at-bryo" "$at-bare")" "$(median "$work/results/$at-before")" "$(median "$work/results/$at-peak")"
  done
  cat <<END

From the caller's cancel to the moment at which no process of the job is left:

| | rounds | median | 99/100 | longest |
|---|---:|---:|---:|---:|
END
  for way in crun podman; do
    at=$work/results/agent-cancel-$way
    printf '| %s | %s | %s | %s | %s |\n' "$way" "$(wc -l < "$at")" "$(median "$at")" "$(hundredth "$at")" "$(sort -n "$at" | tail -1)"
  done
  cat <<END

## Sources

A repository with 20 000 files and a new commit that changes ten of them, in each round; every way begins with what it had before
that commit and ends with the whole tree of it. Files are on the disk. Git writes with as many workers as there are processors.

| | median | 9/10 | to its baseline | processor time, to its baseline |
|---|---:|---:|---:|---:|
END
  # shellcheck disable=SC2016  # Markdown's own quotes
  {
    beside source-worktree '`git fetch` + `git worktree add`' source-worktree
    beside source-linked 'update and checkout, with an older checkout of the repository' source-worktree
    beside source-written 'update and checkout, without one' source-worktree
    beside source-clone '`git clone --depth 1`' source-clone
    beside source-again 'the same commit again: fetch and checkout' source-clone
  }
  cat <<END

What a process needs for itself, in MiB, while it fetches and checks out for the first time a tree of so many files of three KiB:

| files | MiB |
|---:|---:|
END
  for files in 2000 20000 60000; do
    printf '| %s | %s |\n' "$files" "$(median "$work/results/source-memory-$files")"
  done
  cat <<END

## Why

What is not in the run stage of bare crun and is in ours: the user namespace with subordinate ids (newuidmap and newgidmap,
begun before the source is looked up), the overlay, the mounts of the contract, the cgroup with its read-back, and their
removal. With a network the kernel takes some 20 ms to remove the job's network device; \`bryo run\` waits until it has, and a
process that keeps running does so beside the next attempt. Bare crun has no system-call filter here; a job of Bryo has one.
What bare crun does and a process that keeps running spares: newuidmap, newgidmap, and the second start of crun from a sealed
copy of itself. So many processes at once are bound by processor time, of which both take about the same.
END
} > "$work/benchmarks.md"
scripts/bench-agent.sh >> "$work/benchmarks.md"
if [ -n "${S3:-}" ]; then
  { echo; scripts/bench-s3.sh; } >> "$work/benchmarks.md"
else
  # What takes so long to prepare is not lost by a run without it.
  earlier='Of an earlier run than what stands above.'
  awk -v earlier="$earlier" '/^## / { of = /^## Publishing to S3/ } of && $0 != earlier { print } of && /^## / { print "\n" earlier }' \
    docs/benchmarks.md | cat -s > "$work/of-s3"
  if [ -s "$work/of-s3" ]; then { echo; cat "$work/of-s3"; } >> "$work/benchmarks.md"; fi
fi
cp "$work/benchmarks.md" docs/benchmarks.md
if [ "$EUID" = 0 ]; then chown --reference=docs docs/benchmarks.md; fi
cat docs/benchmarks.md
