#!/bin/bash
# agent.sh (guest, builder) - the agent as a service of the user's systemd, by its own units; prints ok or FAIL per check
#
# Server and bucket are stand-ins (bryo-stand-in): those of the stories, as a program. Everything else is real: systemd,
# the journal, the socket, crun.
set -uo pipefail
work=$(mktemp -d ~/agent.XXXXXX)
bad=0
ok() { echo "ok    $*"; }
fail() { echo "FAIL  $*"; bad=1; }
check() { # check NAME COMMAND... - success is what is wanted
  local name=$1
  shift
  if "$@"; then ok "$name"; else fail "$name"; fi
}
unit=bryo-agent.service
own=~/.config/systemd/user/$unit.d
# shellcheck disable=SC2317  # called by the trap
clear_away() {
  systemctl --user kill --signal=KILL --kill-whom=all $unit 2>/dev/null
  systemctl --user disable --quiet --now bryo-agent.socket $unit 2>/dev/null
  journalctl --user --no-pager -o short-monotonic > "$BED_OUT/agent-journal" 2>&1
  rm -rf "$work" "$own"
  kill "$stand_in" 2>/dev/null
}
mkfifo "$work/questions" "$work/answers"
exec 7<> "$work/questions" 8<> "$work/answers"
bryo-stand-in < "$work/questions" > "$work/answers" 2> "$BED_OUT/stand-in.stderr" 7>&- 8>&- &
stand_in=$!
trap clear_away EXIT
ask() { # ask COMMAND... - prints the stand-in's answer
  local answer
  echo "$*" >&7
  read -r -t 60 answer <&8 || { echo "the stand-in is gone" >&2; return 1; }
  echo "$answer"
}
until_is() { # until_is NAME WANTED COMMAND... - within a minute it prints that
  local name=$1 wanted=$2 i=0 is
  shift 2
  while is=$("$@"); ! [[ $is =~ $wanted ]]; do
    if [ $((i += 1)) -gt 240 ]; then fail "$name: $is"; return 1; fi
    sleep 0.25
  done
  ok "$name"
}
property() { systemctl --user show --value --property "$1" $unit; }
inside() { # prints the processes of jobs: those with subordinate ids
  cat /proc/[0-9]*/status 2>/dev/null | awk '$1 == "Pid:" { pid = $2 } $1 == "Uid:" && $2 >= 100000 { print pid }'
}
cgroup_of_job() {
  local pid
  for pid in $(inside); do cat "/proc/$pid/cgroup" 2>/dev/null; done
}
status_of() { bryo agent status --json | jq --raw-output "$1"; }
get() { # get PAGE - what the passed socket answers
  exec 9<> /dev/tcp/127.0.0.1/9180 || return 1
  printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' "$1" >&9
  timeout 60 cat <&9
  exec 9>&-
}

# -- projects: one that ends at once, one that takes a while -------------------------------------------------------------
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=bed GIT_AUTHOR_EMAIL=bed@localhost GIT_COMMITTER_NAME=bed \
  GIT_COMMITTER_EMAIL=bed@localhost
project() { # project SLUG SCRIPT
  git init --quiet --initial-branch=main "$work/$1"
  echo "$2" > "$work/$1/build.sh"
  git -C "$work/$1" add build.sh
  git -C "$work/$1" commit --quiet --message one
  ask project "$1" "file://$work/$1" busybox > /dev/null
}
project quick 'cp /repo/build.sh /output/index.html'
project slow 'sleep 20; cp /repo/build.sh /output/index.html'
mkdir -p ~/.config/bryo "$own"
settings() { # settings SLOTS LINE...
  local slots=$1
  shift
  (
    umask 077
    cat > ~/.config/bryo/bryo.toml <<END
[agent]
slots = $slots
drain = "90s"
$(printf '%s\n' "$@")
[feed.docs]
type = "doc-thor"
server = "$(ask server)"
token = "$(ask token)"
poll = "200ms"
[s3]
endpoint = "$(ask s3)"
bucket = "$(ask bucket)"
access-key = "$(ask access-key)"
secret-key = "$(ask secret-key)"
[jobs]
network = "none"
local-sources = true
images.busybox = "oci-archive:$BED_PAYLOAD/busybox.tar"
[jobs.limits]
memory = "64m"
[host]
runtime = "crun"
[watermarks]
free-bytes = "1m"
free-inodes = 10
END
  )
}
settings 1
check "config check" bryo config check

echo "== as it is installed"
systemctl --user daemon-reload
check "enable --now" systemctl --user enable --quiet --now $unit
check "ready" test "$(property ActiveState)/$(property SubState)" = active/running
until_is "the status line says what it is about" '^open, 0 jobs$' property StatusText
check "systemctl status shows it" grep -q 'Status: "open, 0 jobs"' <(systemctl --user status --no-pager $unit)

echo "== a job"
id=$(ask trigger quick v1)
until_is "taken and delivered" success ask status "$id"
check "published" test "$(ask keys quick/v1/)" = index.html
slow=$(ask trigger slow v1)
until_is "a job that runs is in the status line" '^open, 1 jobs$' property StatusText
until_is "its cgroup is below the unit's" "/$unit/." cgroup_of_job

echo "== reload"
settings 2
check "reload" systemctl --user reload $unit
until_is "it has the new settings" '^2$' status_of .slots
check "it is active as before" test "$(property ActiveState)" = active
check "what ran goes on" test "$(ask status "$slow")" = running
settings many
systemctl --user reload $unit
until_is "a mistake is in the status line" 'not read anew' property StatusText
check "and changes nothing" test "$(status_of .slots)" = 2
settings 2
systemctl --user reload $unit
until_is "mended" '^open, 1 jobs$' property StatusText

echo "== the journal"
until_is "the slow job" success ask status "$slow"
entries() { journalctl --user --quiet --output json "$@"; }
# shellcheck disable=SC2317  # called by check
says() { # says FILTER MATCH - jq finds the filter true of the entries that match
  entries "$2" | jq --slurp --exit-status "$1" > /dev/null
}
for field in BRYO_JOB BRYO_FEED BRYO_BUILD BRYO_VERDICT; do
  check "field $field" says "any(.[]; has(\"$field\"))" BRYO_FEED=docs
done
job=$(entries BRYO_FEED=docs "BRYO_BUILD=$id" | jq --slurp --raw-output '.[0].BRYO_JOB')
check "one job by its name" says "length > 1 and all(.[]; .BRYO_JOB == \"$job\" and ._SYSTEMD_USER_UNIT == \"$unit\")" "BRYO_JOB=$job"
check "no secret in the journal" test -z "$(entries -u $unit --grep "$(ask token)|$(ask secret-key)")"

echo "== stop"
printf '[Service]\nTimeoutStopSec=4s\n' > "$own/bed.conf"
systemctl --user daemon-reload
id=$(ask trigger slow v2)
until_is "a job runs" '^open, 1 jobs$' property StatusText
begin=$SECONDS
systemctl --user stop --no-block $unit
until_is "it drains" '^draining, 1 jobs' property StatusText
check "systemd knows that it stops" test "$(property ActiveState)" = deactivating
until_is "it has ended" '^inactive$' property ActiveState
check "not before the job had" test "$(ask status "$id")" = success
check "which was longer than TimeoutStopSec" test $((SECONDS - begin)) -gt 5
check "and in order" test "$(property Result)" = success
rm "$own/bed.conf"

echo "== socket activation"
settings 1 'listen = "passed"'
systemctl --user daemon-reload
check "enable --now" systemctl --user enable --quiet --now bryo-agent.socket
check "nobody runs yet" test "$(property ActiveState)" = inactive
check "/health answers" grep -q '^HTTP/1.1 200' <(get /health)
check "and has started the agent" test "$(property ActiveState)" = active
until_is "/ready answers" '^HTTP/1.1 200' get /ready
check "/metrics answers" grep -q '^bryo_slots [1-9]' <(get /metrics)

echo "== watchdog"
printf '[Service]\nWatchdogSec=6s\nRestartSec=1s\n' > "$own/bed.conf"
systemctl --user daemon-reload
systemctl --user restart $unit
id=$(ask trigger slow v3)
until_is "a job runs" '^open, 1 jobs$' property StatusText
until_is "inside its container" . inside
pid=$(property MainPID)
kill -STOP "$pid"
# Whoever asks meanwhile waits for the next one, whose socket it is.
until_is "an agent that says nothing is ended, and another one begins" '^1$' property NRestarts
until_is "which is ready" '^active$' property ActiveState
check "it was the watchdog" grep -q -i watchdog <(journalctl --user --quiet -u $unit --output cat)
check "another process" test "$(property MainPID)" != "$pid"
check "/health answers again" grep -q '^HTTP/1.1 200' <(get /health)
until_is "its job is reported" failed ask status "$id"
check "as cut short" grep -q 'agent restarted' <(ask error "$id")
until_is "nothing of it runs" '^$' inside
id=$(ask trigger quick v2)
until_is "the next job" success ask status "$id"
check "handed out once" test "$(ask claims "$id")" = 1
check "stop" systemctl --user stop bryo-agent.socket $unit
exit $bad
