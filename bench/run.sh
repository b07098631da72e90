#!/usr/bin/env bash
# bench/run.sh [kv|tc|storage|tenants|sds|rss|automerge|automerge-live|kv-postgres|tc-postgres|all] [--update]: builds the contenders, runs them one after the other again and again under a
# modelled flush, and prints what docs/performance.md shows (with --update: writes it there).
#
# Rounds interleave the contenders (A B A B ..), so that a slow minute of the machine is everybody's; the report takes medians.
# ROUNDS=5, SECONDS_EACH=1.5 and DEVICES="100 1000 4000" (microseconds a flush; -1 is the real disk) can be set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-1.5}
read -ra devices <<<"${DEVICES:-100 1000 4000}"
work=$PWD/../target/bench
model=$PWD/flush-model/target/flush.so
server=

mkdir -p "$work/results" flush-model/target
trap 'stop_server; stop_postgres; rm -rf "$work/data"' EXIT

build_model() { cc -O2 -Wall -Wextra -Werror -shared -fPIC -o "$model" flush-model/flush.c -ldl; }
build() { (cd "$1" && cargo build --release --locked --quiet "${@:2}"); }

# add FILE FIELDS COMMAND..: appends the line of JSON that the command prints, with more fields before its own.
add() {
    local file=$1 fields=$2 line
    shift 2
    line=$("$@")
    echo "{$fields,${line#\{}" | tee -a "$work/results/$file.jsonl"
}

run_kv() {
    build kv-seabed
    # The peer as cargo gives it to everybody: without our flags for SQLite.
    LIBSQLITE3_FLAGS='' build kv-rusqlite
    : >"$work/results/kv.jsonl"
    rm -rf "$work/data"
    for contender in seabed rusqlite; do
        FLUSH_US=0 LD_PRELOAD=$model "kv-$contender/target/release/kv-$contender" "$work/data/$contender" prepare
    done
    for ((round = 0; round < rounds; round++)); do
        for us in "${devices[@]}"; do
            contend kv "$us" seabed put rusqlite put seabed put_async \
                seabed put_conditional rusqlite put_conditional \
                seabed put64_tasks rusqlite put64_threads seabed put64_threads
        done
        # These wait for no flush.
        contend kv "${devices[0]}" seabed get rusqlite get seabed put_relaxed rusqlite put_relaxed
    done
}

# contend PART DEVICE (CONTENDER CASE)..
contend() {
    local part=$1 us=$2
    shift 2
    while [[ $# -gt 0 ]]; do
        FLUSH_US=$us LD_PRELOAD=$model add "$part" "\"contender\":\"$1\",\"flush_us\":$us" \
            "$part-$1/target/release/$part-$1" "$work/data/$1" "$2" "$seconds"
        shift 2
    done
}

# The store beside statements written by hand, on one PostgreSQL: with the flushes of this disk, and without any, so that work is compared.
run_kv_postgres() {
    build kv-postgres
    : >"$work/results/kv-postgres.jsonl"
    local program=kv-postgres/target/release/kv-postgres fsync case contender
    for fsync in on off; do
        # No vacuum and no checkpoint but before the measurements: whoever they met would pay for both.
        start_postgres -c "fsync=$fsync" -c autovacuum=off -c checkpoint_timeout=1h -c max_wal_size=8GB
        "$program" "$database" prepare
        for ((round = 0; round < rounds; round++)); do
            for case in get put conditional batch; do
                for contender in seabed by_hand; do
                    FLUSH_US=0 LD_PRELOAD=$model add kv-postgres "\"contender\":\"$contender\",\"fsync\":\"$fsync\"" \
                        "$program" "$database" "$contender" "$case" "$round"
                done
            done
        done
        stop_postgres
    done
}

run_storage() {
    build storage-seabed
    # The peer as cargo gives it to everybody: without our flags for SQLite.
    LIBSQLITE3_FLAGS='' build storage-sqlite
    : >"$work/results/storage.jsonl"
    local case
    for ((round = 0; round < rounds; round++)); do
        for us in "${devices[@]}"; do
            rm -rf "$work/data"
            for case in adds_1 adds_snapshot adds_64_tasks adds_64_threads gets; do
                contend storage "$us" seabed "$case" sqlite "$case"
            done
        done
    done
}

run_tenants() {
    # Each open tenant may take eleven files.
    ulimit -n "$(ulimit -Hn)"
    build kv-seabed
    local program=kv-seabed/target/release/kv-seabed case
    : >"$work/results/tenants.jsonl"
    rm -rf "$work/data"
    FLUSH_US=0 LD_PRELOAD=$model "$program" "$work/data" tenants_prepare
    for ((round = 0; round < rounds; round++)); do
        for case in tenants_all_open tenants_256_open tenants_few_open tenant_stays_open tenant_evicted tenant_resident; do
            FLUSH_US=100 LD_PRELOAD=$model add tenants '"flush_us":100' "$program" "$work/data" "$case" "$seconds"
        done
    done
}

run_sds() {
    build sds
    : >"$work/results/sds.jsonl"
    local case
    for ((round = 0; round < rounds; round++)); do
        for case in send_0 send_1000 receive_0 receive_1000 wire memory_empty memory_full load_1000 load_10000 \
            relaxed_send_0 relaxed_send_1000 relaxed_receive_0 relaxed_receive_1000 durable_64; do
            rm -rf "$work/data"
            FLUSH_US=100 LD_PRELOAD=$model add sds '"flush_us":100' sds/target/release/sds "$work/data" "$case" "$seconds"
        done
    done
}

# Documents against automerge alone, both in one program, which prints a line a quantity.
run_automerge() {
    build automerge
    : >"$work/results/automerge.jsonl"
    local case
    for ((round = 0; round < rounds; round++)); do
        for case in transactions writers load life open; do
            rm -rf "$work/data"
            mkdir -p "$work/data/$case"
            FLUSH_US=1000 LD_PRELOAD=$model automerge/target/release/bench-automerge "$work/data" "$case" |
                tee -a "$work/results/automerge.jsonl"
        done
    done
}

# Clients of automerge-repo through our server, and through automerge-repo's own, which runs in Node with the packages that the tests have
# installed (`./test.sh tools`); then what memory ours keeps of documents that came and went.
run_automerge_live() {
    build .. -p seabed
    build automerge
    : >"$work/results/automerge-live.jsonl"
    local case contender
    for ((round = 0; round < rounds; round++)); do
        for case in one many; do
            for contender in seabed automerge-repo; do
                if [[ $contender == seabed ]]; then start_server 1000; else start_peer 1000; fi
                add automerge-live "\"contender\":\"$contender\"" live_load "$case" 50
                stop_server
            done
        done
    done
    for contender in seabed automerge-repo; do
        if [[ $contender == seabed ]]; then start_server 1000; else start_peer 1000; fi
        sleep 2
        add automerge-live "\"contender\":\"$contender\",\"case\":\"fresh\"" resident
        live_load documents 2000 >/dev/null
        # A document that nobody uses stays in memory for a minute.
        sleep 75
        add automerge-live "\"contender\":\"$contender\",\"case\":\"after 2,000 documents\"" resident
        stop_server
    done
}

# live_load CASE COUNT
live_load() {
    automerge/target/release/live-load "ws://$address/" "$1" "$2" "$seconds" "$server" "$work/flushes"
}

start_peer() {
    rm -rf "$work/data" "$work/flushes"
    mkdir -p "$work/data"
    address=$(free_address)
    FLUSH_US=$1 FLUSH_COUNT_FILE=$work/flushes LD_PRELOAD=$model \
        node automerge/peer.mjs "${address#*:}" "$work/data" >"$work/server.log" 2>&1 &
    server=$!
    wait_for "$address"
}

run_tc() {
    build .. -p seabed
    build tc-load
    : >"$work/results/tc.jsonl"
    for ((round = 0; round < rounds; round++)); do
        for us in "${devices[@]}"; do
            start_server "$us"
            for load in "adds 1" "adds 64" "mixed 64" "gets 1" "gets 64"; do
                read -ra load <<<"$load"
                add tc "\"flush_us\":$us" load "${load[@]}"
            done
            stop_server
        done
    done
}

# load MIX CONNECTIONS
load() { tc-load/target/release/tc-load "$address" "$1" "$2" "$seconds" "$server" "$work/flushes"; }

# Pushes through one and through two servers on one PostgreSQL, on this disk: its flush is not modelled.
run_tc_postgres() {
    build .. -p seabed
    build tc-load
    : >"$work/results/tc-postgres.jsonl"
    head -c 8 /dev/zero >"$work/no-flushes"
    start_postgres
    local instances connections
    for ((round = 0; round < rounds; round++)); do
        for instances in 1 2; do
            servers=() addresses=()
            while [[ ${#servers[@]} -lt $instances ]]; do
                address=$(free_address)
                SEABED_STORE=$database ../target/release/seabed serve --listen "$address" >"$work/server.log" 2>&1 &
                servers+=($!) addresses+=("$address")
                wait_for "$address"
            done
            for connections in 1 8 64; do
                add tc-postgres "\"instances\":$instances" tc-load/target/release/tc-load "$(join "${addresses[@]}")" \
                    adds "$connections" "$seconds" "$(join "${servers[@]}")" "$work/no-flushes"
            done
            kill "${servers[@]}" && wait "${servers[@]}" || true
        done
    done
    stop_postgres
}

join() { local IFS=,; echo "$*"; }

# A PostgreSQL of its own with such options, as an unprivileged user, as its programs demand.
start_postgres() {
    local bin=${SEABED_POSTGRES_BIN:-$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -1)}
    postgres_place=$(mktemp -d)
    as=()
    if [[ $(id -u) == 0 ]]; then
        chown nobody "$postgres_place"
        as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
    fi
    "${as[@]}" "$bin/initdb" -D "$postgres_place/data" -U postgres -A trust >/dev/null
    address=$(free_address)
    "${as[@]}" "$bin/postgres" -D "$postgres_place/data" -k "$postgres_place" -h 127.0.0.1 -p "${address#*:}" "$@" >"$work/postgres.log" 2>&1 &
    postgres=$!
    wait_for "$address"
    # It listens before it lets anybody in.
    local try
    for ((try = 0; try < 100; try++)); do
        "$bin/pg_isready" --quiet -h 127.0.0.1 -p "${address#*:}" && break
        sleep 0.1
    done
    database=postgres://postgres@$address/postgres
}

stop_postgres() {
    [[ -n ${postgres:-} ]] || return 0
    kill -INT "$postgres" && wait "$postgres" || true
    postgres=
    rm -rf "$postgres_place"
}

run_rss() {
    build .. -p seabed
    build tc-load
    : >"$work/results/rss.jsonl"
    start_server 0
    sleep 2
    add rss '"case":"fresh"' resident
    load adds 64 >/dev/null
    sleep 5
    add rss '"case":"after 64 connections"' resident
    stop_server
}

resident() { awk '/^VmRSS/ { printf "{\"kib\":%d}", $2 }' "/proc/$server/status"; }

# The server on a free port of loopback, with an empty data directory.
start_server() {
    rm -rf "$work/data" "$work/flushes"
    address=$(free_address)
    FLUSH_US=$1 FLUSH_COUNT_FILE=$work/flushes LD_PRELOAD=$model \
        ../target/release/seabed serve --listen "$address" --data-dir "$work/data" >"$work/server.log" 2>&1 &
    server=$!
    wait_for "$address"
}

free_address() {
    echo "127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
}

# Until somebody listens on the address.
wait_for() {
    local try
    for ((try = 0; try < 100; try++)); do
        (: >"/dev/tcp/${1/:/\/}") 2>/dev/null && return
        sleep 0.1
    done
    echo "no server started on $1:" >&2
    cat "$work"/*.log >&2
    return 1
}

stop_server() {
    [[ -n $server ]] || return 0
    kill "$server" && wait "$server" || true
    server=
}

parts=()
update=()
for argument in "${@:-all}"; do
    case $argument in
        kv | tc | storage | tenants | sds | rss | automerge | automerge-live | kv-postgres | tc-postgres) parts+=("$argument") ;;
        all) parts+=(kv tc storage tenants sds rss automerge automerge-live kv-postgres tc-postgres) ;;
        --update) update=(--update) ;;
        *) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
    esac
done
[[ ${#parts[@]} -gt 0 ]] || parts=(kv tc storage tenants sds rss automerge automerge-live kv-postgres tc-postgres)
build_model
for part in "${parts[@]}"; do
    "run_${part//-/_}" >&2
done
python3 report.py "${update[@]}" "$work/results" "${parts[@]}"
