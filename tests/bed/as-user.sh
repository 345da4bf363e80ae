#!/bin/bash
# as-user.sh [--podman] [--see DIR]... [--] COMMAND [ARG...] - runs COMMAND as an ordinary user on a rootless host
#
#   --podman   with the user's podman socket answering at $XDG_RUNTIME_DIR/podman/podman.sock
#   --see DIR  the user can read DIR too, at its own path, wherever it lies (the repository always)
#
# Called by an ordinary user with a systemd of its own: COMMAND in a scope with a delegated cgroup. Nothing is hidden.
#
# Called by root (or by a user without such a systemd, through sudo): makes the host that is missing, in a private mount
# namespace, for the unprivileged user bryo-test (BRYO_BED_USER), whom it creates with subordinate ids where needed:
#   /sys/fs/cgroup     cgroup2, with a sub-cgroup of its own that the user owns; COMMAND starts in its leaf `init`
#   /run/user/UID      an empty tmpfs: no socket, lock or pause process of another mount namespace is met
#   the home, /tmp     empty tmpfs: no image store, configuration or work directory of another run is met
#   /dev/net/tun,fuse  copies that the user may open; the machine's own nodes keep their modes
# The repository and each --see DIR are read-only. A directory that the user could not reach, for instance below /root,
# appears at the same path on an empty tmpfs. What the user is to write for the caller goes to a directory below
# /var/tmp that the caller gave to the user.
#
# COMMAND gets PATH, HOME, USER, XDG_RUNTIME_DIR and of the caller's environment only BRYO_*, NEXTEST_*, CARGO_TERM_COLOR,
# CI, LANG, NO_COLOR, RUST_BACKTRACE, RUST_LOG and TERM. Added are
#   BRYO_TEST_CGROUP     the delegated cgroup; stories look here for what was left behind
#   BRYO_TEST_SMALL_FS   a file system of 16 MiB that the user owns (only where root made the host)
#
# When COMMAND ends, everything in the cgroup is killed and everything made here is gone. The exit status is COMMAND's.
# A bed whose own script was killed is cleared away by the next one.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/lib.sh"

original=("$@") podman=() see=("$repo")
while :; do
  case ${1:-} in
    --podman) podman=(--podman); shift ;;
    --see) [ -d "${2:-}" ] || die "--see: no such directory: ${2:-}"; see+=("$(cd "$2" && pwd)"); shift 2 ;;
    --) shift; break ;;
    -*) usage ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || usage

# -- what of the caller's environment goes in -------------------------------------------------------------------------
pass=()
while IFS='=' read -r -d '' name value; do
  case $name in
    BRYO_BED_*) ;;
    BRYO_* | NEXTEST_* | CARGO_TERM_COLOR | CI | LANG | NO_COLOR | RUST_BACKTRACE | RUST_LOG | TERM) pass+=("$name=$value") ;;
  esac
done < <(env -0)

# -- an ordinary user -------------------------------------------------------------------------------------------------
if [ "$EUID" != 0 ]; then
  user=$(id -un)
  for f in /etc/subuid /etc/subgid; do
    grep -Eq "^($user|$EUID):" "$f" 2>/dev/null ||
      die "$user has no subordinate ids in $f; as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user"
  done
  export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-/run/user/$EUID}
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] && systemctl --user show-environment >/dev/null 2>&1; then
    exec systemd-run --user --scope --quiet --collect -p Delegate=yes -- "$here/enter.sh" "${podman[@]}" -- "$@"
  fi
  say "no systemd of $user with a unified cgroup tree: makes a private one through sudo"
  as_root env "${pass[@]}" BRYO_BED_USER="$user" "$here/as-user.sh" "${original[@]}"
  exit
fi

# -- root: the host that is missing ----------------------------------------------------------------------------------
# With a PID namespace of its own the bed cannot outlive its script, and what daemonises is reaped although PID 1 of the
# machine may be one that does not.
if [ -z "${BRYO_BED_NAMESPACE:-}" ]; then
  ensure_bed_user
  exec env BRYO_BED_NAMESPACE=1 unshare --mount --propagation private --pid --fork --kill-child --mount-proc -- \
    "$here/as-user.sh" "${original[@]}"
fi
uid=$(id -u "$BED_USER") gid=$(id -g "$BED_USER")
home=$(getent passwd "$BED_USER" | cut -d: -f6)
[ "$uid" != 0 ] || die "BRYO_BED_USER is root: nothing would be rootless"

end_of_cgroup() { # end_of_cgroup DIR - all its processes killed, the directory removed
  local i pid
  if [ -e "$1/cgroup.kill" ]; then
    echo 1 > "$1/cgroup.kill"
  else # before Linux 5.14
    while read -r pid; do kill -9 "$pid" || true; done < <(find "$1" -name cgroup.procs -exec cat {} +)
  fi
  for ((i = 0; i < 100; i++)); do
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$1" ] || return 0
    sleep 0.05
  done
  say "something in $1 does not die"
}
# Processes, then mounts, then the directory that was made for them; nothing stops it early. /run/user/UID stays: to
# remove it would take the mount on it from another bed that runs at the same time.
stage='' cgroup=''
# shellcheck disable=SC2317  # called by the trap
clear_away() {
  set +e
  trap '' INT TERM HUP
  [ -z "$cgroup" ] || end_of_cgroup "$cgroup"
  cd /
  [ -z "$stage" ] || { umount --recursive --lazy "$stage"; rmdir "$stage"; } 2>/dev/null
}
trap clear_away EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# podman wants / shared, or it warns and cannot propagate; this is our own copy of the tree.
mount --make-rshared /
[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup

# A bed holds a lock on its cgroup directory for as long as its script lives; one without is cleared away. The lock on
# the parent keeps two scripts from seeing each other's directory before it is locked.
exec 8< /sys/fs/cgroup
flock 8
for d in /sys/fs/cgroup/bryo-bed-*; do
  [ -d "$d" ] || continue
  { flock --nonblock 9 || continue; } 9< "$d"
  say "clears away $d, left by a killed run"
  end_of_cgroup "$d"
  rmdir "/run/${d##*/}" 2>/dev/null || true
done
cgroup=$(mktemp -d /sys/fs/cgroup/bryo-bed-XXXXXX)
chmod 755 "$cgroup"
exec 9< "$cgroup"
flock 9
exec 8<&-
mkdir "$cgroup/init"
hand_on_controllers "$cgroup"
# What systemd gives away with Delegate=yes, no more: the limits of the top directory stay root's.
chown "$uid:$gid" "$cgroup" "$cgroup"/cgroup.{procs,threads,subtree_control}
chown -R "$uid:$gid" "$cgroup/init"

stage=/run/${cgroup##*/}
mkdir "$stage"
mount -t tmpfs -o mode=755,dev none "$stage"
mkdir "$stage/dev" "$stage/small"
mount -t tmpfs -o "size=16m,mode=700,uid=$uid,gid=$gid" none "$stage/small"
for n in /dev/net/tun /dev/fuse; do
  if [ ! -c "$n" ] || [ "$(stat -c %a "$n")" = 666 ]; then continue; fi
  mknod -m 666 "$stage/dev/${n##*/}" c $((0x$(stat -c %t "$n"))) $((0x$(stat -c %T "$n")))
  mount --bind "$stage/dev/${n##*/}" "$n"
done

# Hold on to what must stay visible, then cover what must not be met, then put back what the covers hid.
for i in "${!see[@]}"; do
  mkdir -p "$stage/see/$i"
  mount --bind "${see[i]}" "$stage/see/$i"
  mount -o remount,bind,ro "$stage/see/$i"
done
mkdir -p "/run/user/$uid" "$home"
mount -t tmpfs -o "mode=700,uid=$uid,gid=$gid" none "/run/user/$uid"
mount -t tmpfs -o "mode=700,uid=$uid,gid=$gid" none "$home"
mount -t tmpfs -o mode=1777 none /tmp
may() { as_bed_user test "$@"; }
for i in "${!see[@]}"; do
  d=${see[i]} kept=$stage/see/$i above=''
  while [ "$above" != "$d" ]; do
    rest=${d#"$above"/}
    above=$above/${rest%%/*}
    [ -d "$above" ] || mkdir "$above"
    # the first directory on the way that the user may not pass: everything in it is hidden, and only d comes back
    may -x "$above" || mount -t tmpfs -o mode=755 none "$above"
  done
  if may -r "$kept" -a -x "$kept"; then
    mount --bind "$kept" "$d"
  else
    # d is for its owner only (a checkout in a `mktemp -d`): its entries may not be
    mountpoint -q "$d" || mount -t tmpfs -o mode=755 none "$d"
    for entry in "$kept"/* "$kept"/.[!.]*; do
      if [ -d "$entry" ]; then mkdir "$d/${entry##*/}"; elif [ -f "$entry" ]; then : > "$d/${entry##*/}"; else continue; fi
      mount --bind "$entry" "$d/${entry##*/}"
    done
  fi
done
may -x "$here/enter.sh" || die "$BED_USER cannot read the files of $repo: made with a umask that forbids it"

as_bed_user unshare --user true ||
  die "the kernel refuses user namespaces to $BED_USER (kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor)"
where=$PWD
may -x "$where" || where=$home

status=0
# shellcheck disable=SC2016
bash -c 'echo $$ > "$1/init/cgroup.procs" && cd "$2" && shift 2 && exec "$@"' - "$cgroup" "$where" \
  setpriv --reuid "$uid" --regid "$gid" --init-groups -- \
  env -i "${pass[@]}" \
    PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME="$home" USER="$BED_USER" LOGNAME="$BED_USER" SHELL=/bin/bash \
    XDG_RUNTIME_DIR="/run/user/$uid" BRYO_TEST_CGROUP="$cgroup" BRYO_TEST_SMALL_FS="$stage/small" \
    "$here/enter.sh" --throw-away "${podman[@]}" -- "$@" 9<&- || status=$?
exit "$status"
