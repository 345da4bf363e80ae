#!/bin/bash
# demo.sh - Bryo builds its own documentation from its own git repository, on crun and on podman; the result is site/
#
# Works as root (the test bed then makes an unprivileged user and a private cgroup) and as an ordinary user with sudo for
# missing packages. Needs no container registry. What is committed is built; changes in the working tree are not.
# Reports of both runs: target/demo/*.json.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh

git_here() { git -c safe.directory="$repo" "$@"; }
git_here rev-parse --verify --quiet HEAD > /dev/null || die "nothing is committed here: there is no repository to build"
[ -z "$(git_here status --porcelain -- docs mkdocs.yml)" ] || say "docs/ has changes that are not committed: not in the demo"

tests/bed/install-packages.sh build run demo
cargo build --release --locked --package bryo
images/build mkdocs

if [ "$EUID" = 0 ]; then ensure_bed_user; fi
work=$(throwaway_dir demo)
trap 'rm -rf --one-file-system "$work"' EXIT
target=$(target_directory)
# A clone of its own, which belongs to the user who runs Bryo: git refuses somebody else's repository.
git_here clone --quiet --no-hardlinks "$repo" "$work/bryo"
if [ "$EUID" = 0 ]; then chown -R "$BED_USER:" "$work"; fi

# shellcheck disable=SC2016  # for the inner shell
tests/bed/as-user.sh --podman --see "$target" -- bash -c '
  set -euo pipefail
  work=$1 bryo=$2 image=$3
  cd "$work"
  for runtime in crun podman; do
    printf "\n== bryo run bryo --image oci-archive:images/mkdocs.tar --output site --runtime %s\n" "$runtime"
    "$bryo" run bryo --image "oci-archive:$image" --output site --runtime "$runtime" --json > "$runtime.json"
    mv site "site-$runtime"
  done
' - "$work" "$target/release/bryo" "$repo/images/mkdocs.tar"

mkdir -p "$target/demo"
cp "$work"/*.json "$target/demo/"
for runtime in crun podman; do
  [ -s "$work/site-$runtime/index.html" ] || die "$runtime: the site has no index.html"
done
rm -rf site.new
cp -r "$work/site-podman" site.new
if [ "$EUID" = 0 ]; then chown -R --reference=. site.new; fi
rm -rf site
mv site.new site

printf '\nmilliseconds    %10s %10s\n' crun podman
jq -rn --slurpfile a "$target/demo/crun.json" --slurpfile b "$target/demo/podman.json" '
  ($b[0].stages | map({(.stage): .ms}) | add) as $podman
  | ($a[0].stages[] | [.stage, .ms, $podman[.stage]]), ["all", $a[0].total_ms, $b[0].total_ms] | @tsv' |
  awk '{ printf "  %-13s %10.0f %10.0f\n", $1, $2, $3 }'
differing=$(diff -rq "$work/site-crun" "$work/site-podman" | wc -l) || true
printf '\nThe documentation of Bryo, built by Bryo (%d files, %d of them not the same on crun and podman):\n  %s\n' \
  "$(find site -type f | wc -l)" "$differing" "$repo/site/index.html"
