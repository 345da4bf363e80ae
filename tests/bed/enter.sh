#!/bin/bash
# enter.sh [--throw-away] [--podman] -- COMMAND [ARG...] - the user's side of as-user.sh; not called by anyone else
#
#   --throw-away  the home is a new empty one: podman is configured in it. Another home's configuration is never touched.
#   --podman      the podman socket answers before COMMAND starts
#
# Invariant: COMMAND runs in a leaf of the delegated cgroup $BRYO_TEST_CGROUP, so that the directory itself is free of
# processes and can hand its controllers on. The podman service has a leaf of its own: killing all of the command's
# processes must not kill podman.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/bed/lib.sh
. "$here/lib.sh"

throw_away='' podman=''
while :; do
  case ${1:-} in
    --throw-away) throw_away=1; shift ;;
    --podman) podman=1; shift ;;
    --) shift; break ;;
    *) usage ;;
  esac
done

if [ -z "${BRYO_TEST_CGROUP:-}" ]; then
  # in a new scope of systemd, which has put us at the top of it
  export BRYO_TEST_CGROUP
  BRYO_TEST_CGROUP=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
  mkdir "$BRYO_TEST_CGROUP/init"
  echo $$ > "$BRYO_TEST_CGROUP/init/cgroup.procs"
  hand_on_controllers "$BRYO_TEST_CGROUP"
fi

if [ -n "$throw_away" ]; then
  umask 022
  mkdir -p ~/.config/containers
  # podman asks for a limit of pids by default, and crun refuses that where no controller can keep it
  pids=
  grep -qw pids "$BRYO_TEST_CGROUP/cgroup.controllers" || pids='pids_limit = 0'
  cat > ~/.config/containers/containers.conf <<-END
	[containers]
	$pids
	[engine]
	cgroup_manager = "cgroupfs"
	events_logger = "file"
	END
  # podman 4.3 without a word about storage takes vfs, which copies the root file system for each container
  printf '[storage]\ndriver = "overlay"\n' > ~/.config/containers/storage.conf
fi

[ -n "$podman" ] || exec "$@"

socket=$XDG_RUNTIME_DIR/podman/podman.sock
command -v podman >/dev/null || die "--podman: there is no podman"
if [ -z "$throw_away" ]; then
  systemctl --user start podman.socket
  exec "$@"
fi

log=$XDG_RUNTIME_DIR/podman-service.log
mkdir -p "${socket%/*}" "$BRYO_TEST_CGROUP/podman"
# shellcheck disable=SC2016
bash -c 'echo $$ > "$1/podman/cgroup.procs" && exec podman system service -t 0 "unix://$2"' - \
  "$BRYO_TEST_CGROUP" "$socket" > "$log" 2>&1 < /dev/null &
service=$!
# The program has no way to tell that it is ready: ask it, for 20 seconds at most.
deadline=$((SECONDS + 20))
until [ -S "$socket" ] && podman --url "unix://$socket" version >/dev/null 2>&1; do
  kill -0 "$service" 2>/dev/null || { cat "$log" >&2; die "the podman service ended"; }
  [ $SECONDS -lt $deadline ] || { cat "$log" >&2; die "the podman service does not answer"; }
  sleep 0.05
done
status=0
"$@" || status=$?
kill "$service" 2>/dev/null || true
wait "$service" 2>/dev/null || true
exit "$status"
