#!/bin/bash
# test.sh [STORY] - unit tests and stories: real crun, podman and git, as an ordinary user on a rootless host
#
# Building is done as whoever calls. Every finished test program runs as the user of the test bed, for what a rootless
# program does is only seen there; called by root, the unit tests run as root too, for what only root can arrange.
# All run, whatever the first ones do. With STORY only the stories whose name contains it run, and no unit tests. The
# programs get
#   BRYO_BIN                 the program under test, as it is released
#   BRYO_TEST_IMAGES         the directory with busybox.tar and mkdocs.tar
#   BRYO_TEST_CACHE          where the stories keep unpacked images between them
#   BRYO_TEST_PODMAN_*       a podman service for the tests of bryo-sandbox, and the image that they expect
# and what tests/bed/as-user.sh gives: BRYO_TEST_CGROUP, BRYO_TEST_SMALL_FS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh
[ $# -le 1 ] || usage
story=${1:-}

tests/bed/install-packages.sh build run test
target=$(target_directory)
tests/bed/unpack-package.sh docker-registry "$target/tools" || say "without docker-registry the tests of pulling are skipped"
lap "packages"
images/build busybox mkdocs
lap "images"
cargo build --release --locked --package bryo
lap "bryo"

# one line for each test program: its package's directory and itself
programs() {
  cargo test --locked --no-run --message-format=json-render-diagnostics "$@" |
    sed -n 's#.*"manifest_path":"\([^"]*\)/Cargo.toml".*"executable":"\([^"]*/deps/[^"]*\)".*#\1 \2#p'
}
# Always all of them at once: with fewer, dependencies have other features and are built again. What only measures has no tests.
crates=(--workspace --exclude bryo-bench --exclude bryo-bench-publish)
if [ -n "$story" ]; then
  units= stories=$(programs --package bryo-stories --test stories)
else
  all=$(programs "${crates[@]}")
  units=$(grep -v '/\(stories\|floors\)-[^/]*$' <<< "$all") stories=$(grep '/stories-[^/]*$' <<< "$all")
fi
[ -n "$stories" ] || die "the stories have no test program"
lap "tests: compiled"

export PATH=$PATH:$target/tools/usr/bin BRYO_BIN=$target/release/bryo BRYO_TEST_IMAGES=$repo/images
failed=()
if [ -z "$story" ]; then
  # what needs cargo itself: the drawing of the floors, the examples in the documentation
  cargo test --locked "${crates[@]}" --test floors || failed+=(floors)
  cargo test --locked "${crates[@]}" --doc || failed+=("documentation")
  if [ "$EUID" = 0 ]; then
    while read -r directory program; do
      echo "     Running ${program##*/}, as root"
      (cd "$directory" && "$program" < /dev/null) || failed+=("${program##*/} as root")
    done <<< "$units"
  fi
  lap "tests: as $(id -un)"
fi
# A bed for each: what one program leaves behind is not the next one's trouble.
run() { # run DIRECTORY PROGRAM - as cargo would
  echo "     Running ${2##*/}, as the user of the test bed"
  (cd "$1" && "$repo/tests/bed/as-user.sh" --podman --see "$target" -- \
    "$repo/tests/bed/run-program.sh" "$target/tools/usr/bin" "$2" ${story:+"$story"} < /dev/null)
}
while read -r directory program; do
  run "$directory" "$program" || failed+=("${program##*/}")
done <<< "${units:+$units$'\n'}$stories"
lap "tests: as the user of the bed"
[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
