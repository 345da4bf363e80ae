#!/bin/bash
# run-programs.sh TOOLS [STORY] - the user's side of scripts/test.sh: runs the test programs that standard input names
#
# A line is the directory of a package and a test program of it, which runs there, as cargo would do it. All of them run,
# whatever the first ones do; the exit status is 1 when one failed. STORY is a filter for their tests. TOOLS is a
# directory of programs behind those of the host.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/lib.sh"
export PATH=$PATH:$1
story=${2:-}

export BRYO_TEST_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/bryo-stories
mkdir -p "$BRYO_TEST_CACHE"

# What the tests of bryo-sandbox expect of an image: each of its settings can be seen in a container.
export BRYO_TEST_PODMAN_SOCKET=$XDG_RUNTIME_DIR/podman/podman.sock BRYO_TEST_PODMAN_IMAGE=localhost/bryo-test:settings
export BRYO_TEST_PODMAN_ARCHIVE=$BRYO_TEST_IMAGES/busybox.tar
if [ -z "$story" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/bin"
  cp "$(command -v busybox)" "$work/bin/busybox"
  for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$work/bin/$applet"; done
  tar -C "$work" -cf "$work/layer.tar" bin
  podman import --quiet --change 'ENTRYPOINT ["/bin/echo", "ENTRYPOINT-RAN"]' --change 'ENV FROM_IMAGE=1' \
    --change 'ENV PATH=/bin' --change 'VOLUME /vol' "$work/layer.tar" "$BRYO_TEST_PODMAN_IMAGE" > /dev/null
fi

failed=()
while read -r directory program; do
  echo "     Running ${program##*/}"
  (cd "$directory" && "$program" ${story:+"$story"} < /dev/null) || failed+=("${program##*/}")
done
[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
