#!/bin/bash
# run.sh (guest that enforces SELinux, root in a user's domain) - jobs and their labels: scripts/test-vm.sh adds `bryo`
# and `busybox.tar` to this directory and boots it
#
# selinux.sh runs as the unprivileged user builder, before and after Bryo's policy module is loaded. Results:
# $BED_OUT/*.json and *.stderr of each job, what the policy refused them (avc), and the log.
set -uo pipefail
install -m 755 "$BED_PAYLOAD/bryo" /usr/local/bin/bryo
unset XDG_RUNTIME_DIR
builder() {
  setpriv --reuid builder --regid builder --init-groups env -i PATH="$PATH" HOME=/home/builder USER=builder LOGNAME=builder \
    XDG_RUNTIME_DIR=/run/user/1000 "$@"
}
echo "$(. /etc/os-release && echo "$PRETTY_NAME"), $(uname -r), SELinux $(getenforce), $(id -Z)," \
  "$(builder podman --version), $(builder crun --version | head -1)"
[ "$(getenforce)" = Enforcing ] || exit 1
# A service that comes anew for each job can take longer to its first word, emulated on a busy machine, than a job waits.
builder mkdir -p /home/builder/.config/systemd/user/podman.service.d
printf '[Service]\nExecStart=\nExecStart=/usr/bin/podman system service --time=0\n' \
  > /home/builder/.config/systemd/user/podman.service.d/bed.conf
builder systemctl --user daemon-reload
builder systemctl --user start podman.socket || exit 1
builder podman --remote --url unix:///run/user/1000/podman/podman.sock version > /dev/null || exit 1
bad=0
selinux() { builder env BED_OUT="$BED_OUT" BED_PAYLOAD="$BED_PAYLOAD" timeout 1200 "$BED_PAYLOAD/selinux.sh" "$1" || bad=1; }
selinux before
# The guest was made with both policies, since semodule takes half a minute here.
cp /etc/selinux/with-bryo /etc/selinux/default/policy/policy.* && load_policy || bad=1
selinux after
journalctl -b --no-pager -o cat _TRANSPORT=kernel | grep 'avc: .*scontext=[^ ]*container' > "$BED_OUT/avc"
echo "refused to jobs: $(wc -l < "$BED_OUT/avc") (in avc)"
if [ $bad = 0 ]; then echo "RESULT all good"; else echo "RESULT failures above"; fi
exit $bad
