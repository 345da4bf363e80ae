#!/bin/bash
# docs.sh - builds the documentation of the working tree, committed or not, into site/; a broken link is an error
#
# With the very image that `make demo` uses, run by plain podman: nobody needs MkDocs on the machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$PWD
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh

tests/bed/install-packages.sh run
images/build mkdocs
if [ "$EUID" = 0 ]; then ensure_bed_user; fi
work=$(throwaway_dir docs)
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir "$work/site"
if [ "$EUID" = 0 ]; then chown "$BED_USER:" "$work/site"; fi
# shellcheck disable=SC2016  # for the inner shell
tests/bed/as-user.sh -- bash -c '
  exec podman run --quiet --rm --network=none --volume "$1:/repo:ro" --volume "$2:/output" "oci-archive:$1/images/mkdocs.tar" --strict
' - "$repo" "$work/site"
rm -rf site.new
cp -r "$work/site" site.new
if [ "$EUID" = 0 ]; then chown -R --reference=. site.new; fi
rm -rf site
mv site.new site
echo "$repo/site/index.html"
