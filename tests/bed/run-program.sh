#!/bin/bash
# run-program.sh TOOLS PROGRAM [ARGUMENT...] - the user's side of scripts/test.sh: one test program, in a bed of its own
#
# TOOLS is a directory of programs behind those of the host. What the program needs of the host beyond as-user.sh is
# made here, in the throw-away home.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/lib.sh"
[ $# -ge 2 ] || usage
export PATH=$PATH:$1
shift

case ${1##*/} in
  bryo_sandbox-*)
    # An image each of whose settings can be seen in a container.
    export BRYO_TEST_PODMAN_SOCKET=$XDG_RUNTIME_DIR/podman/podman.sock
    export BRYO_TEST_PODMAN_IMAGE=localhost/bryo-test:settings BRYO_TEST_PODMAN_ARCHIVE=$BRYO_TEST_IMAGES/busybox.tar
    root=$(mktemp -d)
    mkdir -p "$root"/{bin,etc,tmp}
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
    printf 'root:x:0:0::/:/bin/sh\nbuild:x:1000:1000::/tmp:/bin/sh\n' > "$root/etc/passwd"
    printf 'root:x:0:\nbuild:x:1000:\n' > "$root/etc/group"
    tar -C "$root" --owner=0 --group=0 -cf "$root.tar" .
    podman import --quiet --change 'ENTRYPOINT ["/bin/echo", "ENTRYPOINT-RAN"]' --change 'ENV FROM_IMAGE=1' \
      --change 'ENV PATH=/bin' --change 'VOLUME /vol' "$root.tar" "$BRYO_TEST_PODMAN_IMAGE" > /dev/null
    rm -rf "$root" "$root.tar"
    ;;
  stories-*)
    export BRYO_TEST_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/bryo-stories
    mkdir -p "$BRYO_TEST_CACHE"
    ;;
esac
exec "$@"
