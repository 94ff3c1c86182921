#!/usr/bin/env bash
# `make fuzz`: each target until it has run so often or so long, whichever comes first.
#
#   FUZZ_RUNS=10000000 FUZZ_SECONDS=1800 fuzz/run.sh [target...]
#
# What a target finds is left in fuzz/artifacts/; give that file to the target's binary to see it
# again. What it has learnt is kept in target/fuzz-corpus/. No sanitizer: what is fuzzed is safe Rust.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=${FUZZ_RUNS:-10000000}
seconds=${FUZZ_SECONDS:-1800}
targets=("$@")
((${#targets[@]})) || targets=(frames messages v1 toolkata config)

tools=$PWD/target/tools
PATH=$tools/bin:$PATH
cargo +nightly --version >/dev/null 2>&1 || {
    echo 'Fuzzing needs nightly Rust: rustup toolchain install nightly --profile minimal'
    exit 1
}
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked --root "$tools" cargo-fuzz

# Symbols for the stack traces; and whole-program optimization does not pay for the wait.
export CARGO_PROFILE_RELEASE_STRIP=none CARGO_PROFILE_RELEASE_LTO=off
cargo +nightly fuzz build --sanitizer none --debug-assertions --features libfuzzer --target-dir target/fuzz
binaries=target/fuzz/$(rustc -vV | sed -n 's/^host: //p')/release

failed=0
for target in "${targets[@]}"; do
    corpus=target/fuzz-corpus/$target
    log=target/fuzz-$target.log
    mkdir -p "$corpus" fuzz/artifacts
    # One execution that takes a second is a finding too.
    if "$binaries/$target" -runs="$runs" -max_total_time="$seconds" -max_len=4096 -timeout=1 \
        -artifact_prefix="fuzz/artifacts/$target-" "$corpus" "fuzz/seeds/$target" >"$log" 2>&1; then
        printf '%-10s %s, nothing found, seed %s\n' "$target" \
            "$(sed -n 's/^Done \(.*\)/\1/p' "$log")" "$(sed -n 's/^INFO: Seed: //p' "$log")"
    else
        printf '%-10s FAILED: the end of %s:\n' "$target" "$log"
        tail -n 25 "$log"
        failed=1
    fi
done
exit $failed
