#!/bin/bash
# install-packages.sh PURPOSE... - installs the Debian packages of `packages` that are missing, and says which and why
#
# PURPOSE is one of the first column of `packages`: build run images demo bench test vm. Nothing missing means nothing is touched,
# no network, no root. Otherwise: apt-get as root or through sudo, no questions, no recommended packages, and no service
# started that a package would like to start: the machine gets programs, not daemons.
# BRYO_BED_INSTALL=never    only says what is missing, and fails
# BRYO_BED_INSTALL=replace  a package that cannot be beside a missing one may be removed; without it that is refused
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/lib.sh"
[ $# -gt 0 ] || usage

for purpose in "$@"; do
  grep -q "^$purpose " "$here/packages" || die "no such purpose: $purpose"
done
wanted=$(awk -v want=" $* " '!/^#/ && NF && index(want, " " $1 " ") && !seen[$2]++' "$here/packages")

if ! command -v dpkg-query >/dev/null; then
  say "this is not Debian or a derivative; the programs of these packages are needed, by whatever name they have here:"
  printf '%s\n' "$wanted" >&2
  exit 1
fi

missing=()
while read -r _ package why; do
  if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
    [ ${#missing[@]} -gt 0 ] || say "missing Debian packages:"
    printf '  %-32s %s\n' "$package" "$why" >&2
    missing+=("$package")
  fi
done <<< "$wanted"
[ ${#missing[@]} -gt 0 ] || exit 0
[ "${BRYO_BED_INSTALL:-}" != never ] || die "BRYO_BED_INSTALL=never: install these and come back"

# A package's own script asks policy-rc.d before it starts a service; 101 means no. An existing policy is left alone.
policy=/usr/sbin/policy-rc.d
work=$(mktemp -d)
own_policy=
# shellcheck disable=SC2317  # called by the trap
clear_away() {
  rm -rf "$work"
  [ -z "$own_policy" ] || as_root rm -f "$policy"
}
trap clear_away EXIT
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$work/policy"
  own_policy=1
  as_root install -m 755 "$work/policy" "$policy"
fi

apt() { # apt ARGUMENT... - quiet unless it fails
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" \
    > "$work/log" 2>&1 < /dev/null || { cat "$work/log" >&2; return 1; }
}
say "apt-get update"
apt update || die "apt-get update failed"
remove=(--no-remove)
if [ "${BRYO_BED_INSTALL:-}" = replace ]; then remove=(); fi
say "apt-get install ${missing[*]}"
apt install -y --no-install-recommends "${remove[@]}" "${missing[@]}" ||
  die "not installed. If the reason is \"Packages need to be removed\": BRYO_BED_INSTALL=replace allows it"
