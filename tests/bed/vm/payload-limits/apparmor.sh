#!/bin/bash
# apparmor.sh (guest, builder) - jobs under an AppArmor profile that the guest has loaded; prints ok or FAIL per check
set -uo pipefail
work=$(mktemp -d ~/apparmor.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
bad=0
ok() { echo "ok    $*"; }
fail() { echo "FAIL  $*"; bad=1; }
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=bed GIT_AUTHOR_EMAIL=bed@localhost GIT_COMMITTER_NAME=bed \
  GIT_COMMITTER_EMAIL=bed@localhost
git init --quiet --initial-branch=main source
echo hello > source/README
git -C source add README
git -C source commit --quiet --message one
job() { # job NAME OPTION... ; sets rc
  local name=apparmor-$1
  shift
  systemd-run --user --wait --pipe --quiet --collect --same-dir -p Delegate=yes -E "PATH=$PATH" \
    bryo run source --image "oci-archive:$BED_PAYLOAD/busybox.tar" --output out --runtime crun --network none --timeout 120s \
    --json "$@" -- sh -c 'cat /proc/self/attr/current > /output/profile; cat /etc/passwd > /output/passwd; cat /proc/self/uid_map > /output/map' \
    > "$BED_OUT/$name.json" 2> "$BED_OUT/$name.stderr"
  rc=$?
}
echo "== AppArmor"
job none
if [ $rc = 0 ] && ! grep -q bryo-bed out/profile && [ -s out/passwd ]; then ok "without a profile"; else fail "without a profile: $rc $(cat out/profile)"; fi
job loaded --apparmor-profile bryo-bed
if [ $rc = 0 ] && grep -qx 'bryo-bed (enforce)' out/profile && [ ! -s out/passwd ]; then ok "under a profile"; else
  fail "under a profile: $rc $(cat out/profile)"
  tail -3 "$BED_OUT/apparmor-loaded.stderr" | sed 's/^/      | /'
fi
job unknown --apparmor-profile bryo-unknown
if [ $rc = 3 ] && grep -q bryo-unknown "$BED_OUT/apparmor-unknown.json"; then ok "an unknown profile is refused"; else
  fail "an unknown profile: $rc"
  tail -3 "$BED_OUT/apparmor-unknown.stderr" | sed 's/^/      | /'
fi
exit $bad
