#!/bin/bash
# unpack-package.sh PACKAGE DIR - a Debian package's files in DIR, without installing it
#
# For a program whose package would also set up a service of the machine. Needs no root; does nothing when the program
# is installed, or DIR has it already. The package's dependencies are not looked at.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/lib.sh"
[ $# = 2 ] || usage
package=$1 dir=$2
if command -v "$package" > /dev/null || [ -x "$dir/usr/bin/$package" ]; then exit; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# apt fetches as a user of its own
chmod 755 "$work"
if [ "$EUID" = 0 ]; then chown _apt "$work" 2>/dev/null || true; fi
cd "$work"
fetch() { apt-get -qq download "$package" > log 2>&1; }
if ! fetch; then
  say "apt-get update"
  as_root apt-get -qq update > log 2>&1 || { cat log >&2; die "apt-get update failed"; }
  fetch || { cat log >&2; die "apt does not find $package"; }
fi
say "unpacks $package into $dir, and does not install it"
mkdir -p "$dir"
dpkg-deb --extract ./*.deb "$dir"
