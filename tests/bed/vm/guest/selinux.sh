#!/bin/bash
# selinux.sh ROOT MODULE - what a guest has beyond that if it enforces SELinux; mmdebstrap calls it after customize.sh
#
# The guest boots with Debian's policy as it is. The one with Bryo's module beside it is /etc/selinux/with-bryo: semodule
# takes seconds here, and half a minute under emulation. /var/tmp/labels gets what the policy says of each file; it is
# taken out of the tree again.
set -euo pipefail
root=$1 module=$2
policy=$(echo "$root"/etc/selinux/default/policy/policy.*)
sed -i 's/^SELINUX=.*/SELINUX=enforcing/' "$root/etc/selinux/config"
cp "$policy" "$root/etc/selinux/without"
cp "$module" "$root/var/tmp/bryo.cil"
chroot "$root" semodule --noreload --install /var/tmp/bryo.cil
mv "$policy" "$root/etc/selinux/with-bryo"
mv "$root/etc/selinux/without" "$policy"
rm "$root/var/tmp/bryo.cil"
if cmp --silent "$policy" "$root/etc/selinux/with-bryo"; then echo "the module changes nothing" >&2; exit 1; fi

# The payload runs as what a login has. Else it would be a service of the system, and so would all users that it makes.
mkdir -p "$root/etc/systemd/system/bryo-bed.service.d"
printf '[Service]\nSELinuxContext=unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\n' \
  > "$root/etc/systemd/system/bryo-bed.service.d/selinux.conf"

labels=$(mktemp)
# shellcheck disable=SC2016  # the guest's own
chroot "$root" sh -c 'cd / && find . -xdev \( -path "./proc/*" -o -path "./sys/*" -o -path "./dev/*" -o -path "./run/*" \) \
  -prune -o -print | sed "s,^[.],,; s,^\$,/," | xargs -d "\n" matchpathcon' > "$labels"
mv "$labels" "$root/var/tmp/labels"
