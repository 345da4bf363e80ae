#!/bin/bash
# run.sh (guest, root) - the stories that need a kernel which enforces limits, or a systemd: scripts/test-vm.sh adds `bryo`,
# `bryo-stand-in`, `busybox.tar` and the agent's units to this directory and boots it
#
# limits.sh runs as the unprivileged user builder in each of the situations it knows, network.sh with each network
# program, agent.sh as a user who has the agent as a service. Results: $BED_OUT/*.json and *.stderr of each job, and the log.
set -uo pipefail
install -m 755 "$BED_PAYLOAD/bryo" /usr/local/bin/bryo
# root must not have the user's XDG_RUNTIME_DIR: even `crun --version` would leave a directory of root's in it
unset XDG_RUNTIME_DIR
builder() {
  setpriv --reuid builder --regid builder --init-groups env -i PATH="$PATH" HOME=/home/builder USER=builder LOGNAME=builder \
    XDG_RUNTIME_DIR=/run/user/1000 "$@"
}
echo "$(. /etc/os-release && echo "$PRETTY_NAME"), $(uname -r), $(builder podman --version), $(builder crun --version | head -1)"
builder bryo --version
builder systemctl --user start podman.socket || exit 1
# Jobs must not get any of it: each would fit.
truncate -s 0 /swap && fallocate -l 320M /swap && chmod 600 /swap && mkswap --quiet /swap && swapon /swap || exit 1
bad=0
limits="BED_OUT='$BED_OUT' BED_PAYLOAD='$BED_PAYLOAD' timeout 900 '$BED_PAYLOAD/limits.sh'"
runuser -l builder -c "$limits session" || bad=1
builder bash -c "$limits service" || bad=1
# In leaf a job takes all memory there is; with swap that would be minutes of swapping.
swapoff /swap
# This time on a host without leases, where a job's parent is a process of its own.
echo 0 > /proc/sys/fs/leases-enable
builder systemd-run --user --wait --pipe --quiet -p Delegate=yes bash -c "exec env $limits leaf" || bad=1
echo 1 > /proc/sys/fs/leases-enable

# What is kept of the filter that crun compiled: as a search it has about 4000 bytes, as a list more than 9000.
filter=$(find /run/user/1000/bryo -name 'seccomp-*.bpf' -printf '%s')
if [ "${filter:-9999}" -lt 6000 ]; then echo "ok    the filter is kept as a search"; else
  echo "FAIL  the filter is kept with ${filter:-no} bytes"
  bad=1
fi

# A way out that leads nowhere: pasta wants a default route with a gateway.
ip link add world type dummy && ip address add 192.0.2.1/24 dev world && ip link set world up &&
  ip route add default via 192.0.2.254 || bad=1
ip link add other type dummy && ip address add 198.51.100.1/24 dev other && ip link set other up || bad=1
# A name server of the guest, to which every name is 203.0.113.7: the network programs ask the host's first one.
perl -MSocket -e '
  my $s;
  socket($s, PF_INET, SOCK_DGRAM, 0) and bind($s, pack_sockaddr_in(53, inet_aton("192.0.2.1"))) or die "no name server: $!";
  while (defined(my $from = recv($s, my $question, 512, 0))) {
    my $end = index($question, "\0", 12) + 5;
    my $is_a = unpack("n", substr($question, $end - 4, 2)) == 1;
    my $answer = $is_a ? pack("nnnNnC4", 0xc00c, 1, 1, 60, 4, 203, 0, 113, 7) : "";
    send($s, pack("a2n5", $question, 0x8180, 1, $is_a ? 1 : 0, 0, 0) . substr($question, 12, $end - 12) . $answer, 0, $from);
  }' &
rm -f /etc/resolv.conf && echo 'nameserver 192.0.2.1' > /etc/resolv.conf || bad=1
network="BED_OUT='$BED_OUT' BED_PAYLOAD='$BED_PAYLOAD' timeout 600 '$BED_PAYLOAD/network.sh'"
away() { mv "$(command -v "$1")" "/root/$1"; }
away pasta
runuser -l builder -c "$network slirp4netns" || bad=1
mv /root/pasta /usr/bin/pasta
away slirp4netns
# what bryo has noted about podman names the program that was there
rm -f /run/user/1000/bryo/podman-*.json
runuser -l builder -c "$network pasta" || bad=1
mv /root/slirp4netns /usr/bin/slirp4netns

# -- one more fence, whose profile only root can load
cat > /run/profile <<'END'
profile bryo-bed flags=(attach_disconnected,mediate_deleted) {
  file,
  capability,
  network,
  signal,
  ptrace,
  unix,
  mount,
  umount,
  pivot_root,
  deny /etc/passwd r,
}
END
apparmor_parser --add /run/profile || bad=1
builder env BED_OUT="$BED_OUT" BED_PAYLOAD="$BED_PAYLOAD" "$BED_PAYLOAD/apparmor.sh" || bad=1

# -- the agent as a service. A user reads a journal of his own only where the journal is kept.
install -m 755 "$BED_PAYLOAD/bryo-stand-in" /usr/local/bin/bryo-stand-in
install -D -m 644 -t /usr/local/lib/systemd/user "$BED_PAYLOAD"/bryo-agent.{service,socket}
mkdir -p /var/log/journal && printf '[Journal]\nStorage=persistent\n' > /etc/systemd/journald.conf.d/kept.conf
systemctl restart systemd-journald && journalctl --flush || bad=1
builder env BED_OUT="$BED_OUT" BED_PAYLOAD="$BED_PAYLOAD" timeout 600 "$BED_PAYLOAD/agent.sh" || bad=1
if [ $bad = 0 ]; then echo "RESULT all good"; else echo "RESULT failures above"; fi
exit $bad
