# lib.sh - what the scripts of the test bed, images/build and scripts/ have in common. Sourced, never run.
#
# Refuses to know anything about one machine: no path outside the repository, no host name, no user but the bed's own.
# shellcheck shell=bash

# the unprivileged user that root's test runs become
BED_USER=${BRYO_BED_USER:-bryo-test}
# bootable guests: large, slow to make, good for months, safe to delete
# shellcheck disable=SC2034
BED_CACHE=${BRYO_BED_CACHE:-${HOME:-/var}/.cache/bryo-bed}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# usage - the header of the running script is its manual.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

# as_root COMMAND... - as it is when we are root, else through sudo, which may ask only where there is a terminal.
as_root() {
  local ask=-n
  if [ "$EUID" = 0 ]; then "$@"; return; fi
  command -v sudo >/dev/null || die "needs root (not root, and there is no sudo): $*"
  if { : < /dev/tty; } 2>/dev/null; then ask=; fi
  sudo ${ask:+"$ask"} "$@"
}

# BED_IDS - subordinate ids of the user: those that jobs share, and ids of their own for two jobs at one time
BED_IDS=$((3 * 65536))

# ensure_bed_user - the user of root's test runs exists and owns so many subordinate ids that nobody else has. One who has
# fewer gets what is missing; what the user has stays, and so do files that belong to it.
ensure_bed_user() {
  local f
  if ! id -u "$BED_USER" >/dev/null 2>&1; then
    say "creates the unprivileged user $BED_USER for rootless runs"
    useradd --create-home --shell /bin/bash --comment 'Bryo test bed' "$BED_USER"
  fi
  for f in /etc/subuid /etc/subgid; do
    # Two beds may begin at one time.
    ( flock 7; give_ids "$f" ) 7< /etc
  done
}

# give_ids FILE - for ensure_bed_user
give_ids() {
  local first missing
  # behind everyone else's, and not below the first id that useradd itself would give
  read -r first missing < <(awk -F: -v user="$BED_USER" -v ids="$BED_IDS" '
    BEGIN { top = 100000 }
    $2 + $3 > top { top = $2 + $3 }
    $1 == user { ids -= $3 }
    END { print top, ids }' "$1" 2>/dev/null)
  [ "$missing" -gt 0 ] || return 0
  say "gives $BED_USER $missing subordinate ids in $1"
  echo "$BED_USER:$first:$missing" >> "$1"
}

# as_bed_user COMMAND... - root runs one command as the bed's user, in root's own namespaces and cgroup.
as_bed_user() { setpriv --reuid "$BED_USER" --regid "$(id -g "$BED_USER")" --init-groups "$@"; }

# hand_on_controllers CGROUP - its children may limit what it may limit. One by one: some controllers refuse (threaded
# or realtime uses of them), which must not cost the others.
hand_on_controllers() {
  local controllers c
  read -r -a controllers < "$1/cgroup.controllers" || true
  for c in "${controllers[@]}"; do echo "+$c" > "$1/cgroup.subtree_control" || true; done 2>/dev/null
}

# throwaway_dir NAME - a fresh directory that the user of the next as-user.sh may write, outside of what the bed hides.
throwaway_dir() {
  local d
  d=$(mktemp -d "/var/tmp/bryo-$1.XXXXXX")
  if [ "$EUID" = 0 ]; then chown "$BED_USER:" "$d"; fi
  echo "$d"
}

# mirror_of ARCHIVE - the first URI in this host's apt configuration that ends in /ARCHIVE, whatever kind of file it is
# in. Before the first `apt-get update` apt cannot say whose archive one is, so the path decides.
# shellcheck disable=SC2016  # apt's own $(...)
mirror_of() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -E "/$1/?$" | head -1 || true
}

# debian_sources SUITE - sources.list lines for SUITE from the archives that this host uses, whatever it runs itself
debian_sources() {
  local main security
  main=$(mirror_of debian) security=$(mirror_of debian-security)
  if [ -z "$main" ]; then
    main=http://deb.debian.org/debian
    say "this host's apt knows no Debian archive: takes $main"
  fi
  echo "deb $main $1 main"
  echo "deb $main $1-updates main"
  if [ -n "$security" ]; then echo "deb $security $1-security main"; fi
}

# apt_acquire_options - how this host reaches them (proxies, certificates, dates), in apt.conf syntax. Paths of the host
# are good where the host's apt reads them, so never inside of what is built.
apt_acquire_options() {
  apt-config dump Acquire | grep -E '^Acquire::(http|https|Retries|Check-Valid-Until|Check-Date|ForceIPv)' || true
}

# target_directory - where cargo builds for this repository
target_directory() {
  cargo metadata --format-version 1 --no-deps --offline | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# lap NAME - how long it is since the last lap, on stderr.
lap() {
  local now=$EPOCHREALTIME
  awk -v n="$1" -v a="${LAP:-$now}" -v b="$now" 'BEGIN { printf "  %-44s %7.1f s\n", n, b - a }' >&2
  LAP=$now
}
LAP=$EPOCHREALTIME
