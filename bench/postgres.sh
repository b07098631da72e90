#!/usr/bin/env bash
# What the functions of dialect `postgres` cost the server, beside statements written by hand: bench/postgres.sh CONNINFO, as psql takes it.
# pgbench prepares each, as the store does in a session of its own (MODE=extended: without names, as behind a pooler); the contenders are drawn by lot. Read the ratios. It makes a schema
# `seabed_bench` and drops it. It wants psql and pgbench, and a server that may be written to; the store's own client is not part of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
conninfo=${1:?how to reach the server, such as host=/run/postgresql user=postgres dbname=postgres}
rounds=${ROUNDS:-5} transactions=${TRANSACTIONS:-1000} mode=${MODE:-prepared}
place=$(mktemp -d)
trap 'rm -rf "$place"; psql -q -d "$conninfo" -c "SET client_min_messages = warning; DROP SCHEMA IF EXISTS seabed_bench CASCADE"' EXIT

psql -q -d "$conninfo" -v ON_ERROR_STOP=1 -c "SET client_min_messages = warning; DROP SCHEMA IF EXISTS seabed_bench CASCADE"
sources=crates/seabed-kv/src/postgres
sed 's/{schema}/seabed_bench/g; s/{statement_ms_max}/10000/g; s/{answer_bytes_max}/8388608/g' "$sources/schema.sql" "$sources/functions.sql" | psql -q -d "$conninfo" -v ON_ERROR_STOP=1
psql -q -d "$conninfo" -v ON_ERROR_STOP=1 <<'SQL'
CREATE TABLE seabed_bench.plain (tenant bytea, category bytea, key bytea, payload bytea, PRIMARY KEY (tenant, category, key));
INSERT INTO seabed_bench.rows SELECT 't', 'c', convert_to(lpad(i::text, 24, '0'), 'UTF8'), '', '', '', '' FROM generate_series(1, 100000) i;
INSERT INTO seabed_bench.plain SELECT tenant, category, key, payload FROM seabed_bench.rows;
VACUUM ANALYZE seabed_bench.rows;
VACUUM ANALYZE seabed_bench.plain;
SQL

key="convert_to(lpad((:i)::text, 24, '0'), 'UTF8')"
payload="convert_to(lpad((:v)::text, 100, 'x'), 'UTF8')"
some='\set i random(1, 100000)
\set v random(1, 1000000000)'
on_conflict='ON CONFLICT (tenant, category, key) DO UPDATE SET payload = excluded.payload'
give_up=9999999999999
one="$give_up, -7, (:i)::bigint, true, NULL, NULL, 't'"
write="'c', $key, '', '', '', $payload"
hundred="generate_series((:i)::int, (:i)::int + 99) n"
keys="array_agg(convert_to(lpad(n::text, 24, '0'), 'UTF8'))"
payloads="array_agg($payload)"

script() { printf '%s\n%s\n' "$some" "$2" >"$place/$1"; }
script single "INSERT INTO seabed_bench.plain VALUES ('t', 'c', $key, $payload) $on_conflict"
script put "SELECT seabed_bench.apply_put($one, NULL, NULL, NULL, NULL, NULL, $write)"
script conditional "SELECT seabed_bench.apply_put($one, 1, 'c', $key, '', NULL, $write)"
script four "BEGIN;
SELECT payload FROM seabed_bench.plain WHERE tenant = 't' AND category = 'c' AND key = $key FOR UPDATE;
INSERT INTO seabed_bench.plain VALUES ('t', 'c', $key, $payload) $on_conflict;
COMMIT;"
script batch "INSERT INTO seabed_bench.plain SELECT 't', 'c', put.* FROM (SELECT $keys k, $payloads p FROM $hundred) a, unnest(k, p) put $on_conflict"
script puts "SELECT seabed_bench.apply_short_puts($give_up, true, NULL, '{-7}', '{t}', 't', 'c', $keys, $payloads) FROM $hundred"

names=(single put conditional four batch puts)
for ((round = 0; round < rounds; round++)); do
    # One session draws between them by lot, so that what others do on the machine meanwhile is everybody's.
    (cd "$place" && pgbench -n -M "$mode" -l -t $((transactions * ${#names[@]})) "${names[@]/#/-f}" "$conninfo" >/dev/null 2>&1)
    for name in "${!names[@]}"; do
        # A fifth of them was quicker: the rest waited for the processor, too.
        us=$(awk -v "name=$name" '$4 == name { print $3 }' "$place"/pgbench_log.* | sort -n | awk '{ all[NR] = $1 } END { print all[int(NR / 5) + 1] }')
        echo "${names[$name]} $us"
    done
    rm "$place"/pgbench_log.*
done | awk '
    { all[$1] = all[$1] " " $2 }
    function median(name,  n, list, i, j, t) {
        n = split(all[name], list, " ")
        for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j] + 0 < list[j - 1] + 0; j--) { t = list[j]; list[j] = list[j - 1]; list[j - 1] = t }
        return list[int((n + 1) / 2)]
    }
    END {
        single = median("single"); batch = median("batch")
        printf "a put: %.0f us, %.2f x a single insert of %.0f us\n", median("put"), median("put") / single, single
        printf "a check and a put: %.0f us, %.2f x a single insert (goal 1.5)\n", median("conditional"), median("conditional") / single
        printf "the same by hand in four round trips: %.0f us\n", median("four")
        printf "a batch of 100: %.0f us, %.2f x the speed of the same by unnest (goal 0.95)\n", median("puts"), batch / median("puts")
    }'
