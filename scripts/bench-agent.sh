#!/bin/bash
# bench-agent.sh - what an agent costs while it waits, and a job from claim to report; prints a fragment of Markdown
#
# ROUNDS (30) jobs, each beside the same job by `bryo run`, in turn. Server and bucket are in the measuring process, so what
# they take of the two processors is in the times of the agent. The program is the one that is installed (profile dist).
# Raw numbers: target/bench-agent/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh

tests/bed/install-packages.sh build run >&2
cargo build --profile dist --locked --quiet --package bryo >&2
cargo build --release --locked --quiet --package bryo-stories --bin bryo-measure-agent >&2
images/build busybox mkdocs >&2
target=$(target_directory)
if [ "$EUID" = 0 ]; then ensure_bed_user; fi
work=$(throwaway_dir bench)
trap 'rm -rf --one-file-system "$work"' EXIT
BRYO_BIN=$target/dist/bryo BRYO_TEST_IMAGES=$repo/images \
  tests/bed/as-user.sh --see "$target" -- "$target/release/bryo-measure-agent" "$work" "${ROUNDS:-30}" >&2
rm -rf "$target/bench-agent"
cp -r "$work" "$target/bench-agent"

median() { sort -n "$work/$1" | awk '{ v[NR] = $1 } END { printf "%.1f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
more() { awk -v a="$(median agent)" -v b="$(median run)" 'BEGIN { printf "%+.1f", a - b }'; }
cat <<END

## The agent

| | |
|---|---:|
| from the start of the process until it is ready | $(median ready) ms |
| resident memory while it waits | $(median rss) MiB |
| of these its own, the rest is the program's text | $(median rss-own) MiB |
| its own memory of the helper that it keeps, which has the same text | $(median rss-helper) MiB |
| resident memory after ${ROUNDS:-30} jobs | $(median rss-after) MiB |
| wake-ups per second of both while they wait, polling every 5 s | $(median wakes) |
| the program | $(median size) MiB |
| a job that does nothing, from claim to report | $(median agent) ms |
| the same by \`bryo run\`, the whole process | $(median run) ms |
| difference | $(more) ms |
END
