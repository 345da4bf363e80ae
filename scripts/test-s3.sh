#!/bin/bash
# test-s3.sh [NAME] - the tests of the S3 depot against a real server, Garage; NAME for some of them
#
# `make test` tells the same tests to a server inside the test process; those that only a real one can pass are skipped
# there. The server and how it is built: scripts/garage.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh
[ $# -le 1 ] || usage

tests/bed/install-packages.sh build
cargo test --locked --package bryo-depot --test s3 --no-run
scripts/garage.sh -- cargo test --locked --package bryo-depot --test s3 -- "${1:-real}"
