#!/bin/bash
# audit.sh [--if-installed] - licences, bans, sources of all dependencies; advisories where their database can be reached
#
# Uses cargo-deny; installs it where crates.io can be reached (several minutes), unless --if-installed: then its absence
# is said and is no failure. An advisory database that cannot be reached is said, and is not a pass: it is not looked at.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh
if_installed=
case ${1:-} in --if-installed) if_installed=1 ;; '') ;; *) usage ;; esac

export PATH=$PATH:$BED_CACHE/cargo/bin
if ! command -v cargo-deny > /dev/null; then
  if [ -n "$if_installed" ]; then say "SKIPPED: no cargo-deny here (make audit installs it)"; exit 0; fi
  say "cargo install cargo-deny into $BED_CACHE/cargo"
  cargo install --locked --quiet --root "$BED_CACHE/cargo" cargo-deny
fi
cargo deny --workspace --log-level error check bans licenses sources
database=$(sed -n 's/^db-urls = \["\(.*\)"\]/\1/p' deny.toml)
if timeout 20 git ls-remote --exit-code "$database" HEAD > /dev/null 2>&1; then
  cargo deny --workspace --log-level error check advisories
else
  say "SKIPPED: advisories: $database cannot be reached from here"
fi
