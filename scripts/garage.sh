#!/bin/bash
# garage.sh [--] COMMAND [ARGUMENT...] - runs COMMAND with a real S3 server beside it
#
# The server is Garage, built once from the Rust registry (some 20 minutes) and kept in
# ${BRYO_BED_CACHE:-~/.cache/bryo-bed}/garage. It listens on the loopback address, keeps its data in a temporary directory
# and is gone with COMMAND, whose exit status is this one's. COMMAND gets
#   BRYO_TEST_S3_ENDPOINT, _REGION, _BUCKET, _ACCESS_KEY, _SECRET_KEY
# Garage is a tool of the tests: its licence is not ours, and nothing of it is linked or shipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh
[ "${1:-}" != -- ] || shift
[ $# -gt 0 ] || usage

version=2.5.0
garage=$BED_CACHE/garage/bin/garage
if ! [ -x "$garage" ]; then
  say "builds Garage $version once, into $BED_CACHE/garage: some 20 minutes"
  CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
    nice -n 19 cargo install garage --version "$version" --locked --quiet --no-default-features \
    --features bundled-libs,sqlite --root "$BED_CACHE/garage" -j1
fi

work=$(mktemp -d)
server=
# shellcheck disable=SC2317  # called by the trap
clear_away() {
  if [ -n "$server" ]; then kill "$server" 2> /dev/null || true; wait "$server" 2> /dev/null || true; fi
  rm -rf "$work"
}
trap clear_away EXIT

# Nobody can be asked for a free port on behalf of another program: one that answers nothing is tried, others if it fails.
start() {
  local port=$((20000 + RANDOM % 10000))
  umask 077
  cat > "$work/garage.toml" << END
metadata_dir = "$work/meta"
data_dir = "$work/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$((port + 1))"
rpc_secret = "$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')"
[s3_api]
api_bind_addr = "127.0.0.1:$port"
s3_region = "garage"
END
  export GARAGE_DEFAULT_ACCESS_KEY GARAGE_DEFAULT_SECRET_KEY GARAGE_DEFAULT_BUCKET=bryo-test
  GARAGE_DEFAULT_ACCESS_KEY=GK$(od -An -tx1 -N12 /dev/urandom | tr -d ' \n')
  GARAGE_DEFAULT_SECRET_KEY=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
  "$garage" -c "$work/garage.toml" server --single-node --default-bucket > "$work/log" 2>&1 &
  server=$!
  while kill -0 "$server" 2> /dev/null; do
    if (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then
      export BRYO_TEST_S3_ENDPOINT=http://127.0.0.1:$port BRYO_TEST_S3_REGION=garage BRYO_TEST_S3_BUCKET=$GARAGE_DEFAULT_BUCKET
      export BRYO_TEST_S3_ACCESS_KEY=$GARAGE_DEFAULT_ACCESS_KEY BRYO_TEST_S3_SECRET_KEY=$GARAGE_DEFAULT_SECRET_KEY
      return
    fi
    sleep 0.1
  done
  return 1
}
start || start || start || { cat "$work/log" >&2; die "Garage does not start"; }
export BRYO_TEST_S3_SERVER_PID=$server
"$@"
