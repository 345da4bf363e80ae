#!/bin/bash
# fuzz.sh [SECONDS [TARGET...]] - feeds what parses strangers' bytes with inputs that libFuzzer invents
#
# Each target of fuzz/ runs for so many seconds (60). Needs a nightly toolchain (rustup toolchain install nightly) and
# cargo-fuzz, which is installed where crates.io can be reached. An input that breaks an invariant is kept in
# fuzz/artifacts/TARGET; put it into fuzz/corpus/TARGET with the fix, where the ordinary tests try it too. What else was
# found to be interesting stays in fuzz/target/corpus, for the next time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh
seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || usage
shift || true

cargo +nightly --version > /dev/null 2>&1 || die "there is no nightly toolchain; rustup toolchain install nightly"
export PATH=$PATH:$BED_CACHE/cargo/bin
if ! command -v cargo-fuzz > /dev/null; then
  say "cargo install cargo-fuzz into $BED_CACHE/cargo"
  cargo install --locked --quiet --root "$BED_CACHE/cargo" cargo-fuzz
fi
targets=("$@")
[ ${#targets[@]} != 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
cargo +nightly fuzz build
failed=()
for target in "${targets[@]}"; do
  [ -d "fuzz/corpus/$target" ] || die "$target is not one of: $(cargo +nightly fuzz list | paste -sd' ')"
  mkdir -p "fuzz/target/corpus/$target"
  say "$target: $seconds s"
  cargo +nightly fuzz run "$target" "fuzz/target/corpus/$target" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -verbosity=0 -print_final_stats=1 || failed+=("$target")
done
[ ${#failed[@]} = 0 ] || die "failed: ${failed[*]}"
