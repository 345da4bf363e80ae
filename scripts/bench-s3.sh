#!/bin/bash
# bench-s3.sh - publishing small files to a store beside the same done by rclone; prints a fragment of Markdown
#
# One machine, one server, both ways in turn within each round: FILES (10000) files of a few KiB in directories like those
# of a documentation site, ROUNDS (3) rounds, each into a prefix of its own. The server is that of `make test-s3`. rclone
# has its defaults, and as many transfers at a time as Bryo; both are told. Raw numbers: target/bench-s3/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/bed/lib.sh
. tests/bed/lib.sh

if [ "${1:-}" != --measure ]; then
  tests/bed/install-packages.sh build bench >&2
  cargo build --release --locked --quiet --package bryo-bench-publish >&2
  exec scripts/garage.sh -- "$0" --measure
fi

files=${FILES:-10000} rounds=${ROUNDS:-3}
publish=$(target_directory)/release/bryo-bench-publish
results=$(target_directory)/bench-s3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf "$results"
mkdir -p "$results"

# make_site DIRECTORY COUNT - COUNT files of 1 to 8 KiB, of which no two are the same
make_site() {
  awk -v root="$1" -v count="$2" 'BEGIN {
    srand(1)
    for (n = 0; n < count; n++) {
      directory = root "/" int(n / 50)
      if (n % 50 == 0) { system("mkdir -p " directory) }
      kind = n % 5 == 0 ? "html" : n % 5 == 1 ? "css" : n % 5 == 2 ? "js" : n % 5 == 3 ? "svg" : "json"
      file = directory "/page-" n "." kind
      lines = 16 + int(rand() * 112)
      for (i = 0; i < lines; i++) { printf "%08d %d the quick brown fox jumps over the lazy dog\n", n, i * rand() > file }
      close(file)
    }
  }'
  echo '<h1>start</h1>' > "$1/index.html"
}
export RCLONE_CONFIG=/dev/null RCLONE_CONFIG_BED_TYPE=s3 RCLONE_CONFIG_BED_PROVIDER=Other RCLONE_CONFIG_BED_ENV_AUTH=false
export RCLONE_CONFIG_BED_ENDPOINT=$BRYO_TEST_S3_ENDPOINT RCLONE_CONFIG_BED_REGION=$BRYO_TEST_S3_REGION
export RCLONE_CONFIG_BED_ACCESS_KEY_ID=$BRYO_TEST_S3_ACCESS_KEY RCLONE_CONFIG_BED_SECRET_ACCESS_KEY=$BRYO_TEST_S3_SECRET_KEY
unset AWS_CA_BUNDLE  # the rclone of Debian 12 ends at it
run_rclone() { # run_rclone NAME SLUG ARGUMENT...
  local begin=$EPOCHREALTIME name=$1 slug=$2
  shift 2
  rclone copy --quiet "$@" "$work/many" "bed:$BRYO_TEST_S3_BUCKET/$slug/1"
  awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f\n", b - a }' >> "$results/$name"
}
run_bryo() { # run_bryo NAME DIRECTORY SLUG
  "$publish" "$work/$2" "$3" >> "$results/$1"
}

make_site "$work/few" $((files / 10))
make_site "$work/many" "$files"
bytes=$(du -sb --apparent-size "$work/many" | cut -f1)
for ((round = 1; round <= rounds; round++)); do
  run_bryo bryo many "bryo-$round"
  run_rclone rclone "rclone-$round"
  run_rclone rclone16 "rclone16-$round" --transfers 16 --checkers 16
  run_bryo again many "bryo-$round"
  run_bryo few few "few-$round"
done
there=$(rclone lsf -R --files-only "bed:$BRYO_TEST_S3_BUCKET/bryo-1/1" | wc -l)
[ "$there" = $((files + 1)) ] || die "$there objects are there, not $((files + 1))"

median() { # median FILE COLUMN
  awk -v column="$2" '{ print $column }' "$results/$1" | sort -n |
    awk '{ v[NR] = $1 } END { printf "%.2f", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
row() { # row NAME WHAT
  printf '| %s | %s | %s |\n' "$2" "$(median "$1" 1)" \
    "$(awk -v a="$(median "$1" 1)" -v b="$(median bryo 1)" 'BEGIN { printf "%.2f", a / b }')"
}
mib() { awk -v kib="$(median "$1" 2)" 'BEGIN { printf "%.1f", kib / 1024 }'; }
cat << END
## Publishing to S3

$((files + 1)) files, $((bytes / 1024 / 1024)) MiB, to Garage on the same machine, in seconds; median of $rounds rounds.
$(rclone version | head -1).

| | seconds | to Bryo's first publication |
|---|---:|---:|
$(row bryo "Bryo, first publication")
$(row rclone "\`rclone copy\`, its defaults")
$(row rclone16 "\`rclone copy --transfers 16 --checkers 16\`")
$(row again "Bryo, the same files again")

Peak memory of the publishing process: $(mib few) MiB for $((files / 10 + 1)) files, $(mib bryo) MiB for $((files + 1)) files.
END
