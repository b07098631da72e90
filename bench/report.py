#!/usr/bin/env python3
"""report.py [--update] RESULTS PART..: the tables of bench/run.sh, printed or written into docs/performance.md, and docs/operate/scale.md."""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

DOCUMENTS = Path(__file__).parent.parent / "docs"

# ours -> the peer it is held against, in the order of the table.
KV = {
    "put": "put",
    "put_async": "put",
    "put_conditional": "put_conditional",
    "put64_tasks": "put64_threads",
    "put64_threads": "put64_threads",
    "put_relaxed": "put_relaxed",
    "get": "get",
}
# (case, microseconds a flush) -> at least this ratio of operations a second.
KV_RATIO_MIN = {
    ("put", 100): 0.92,
    ("put_async", 100): 0.92,
    ("put64_tasks", 100): 8,
    ("put64_threads", 100): 8,
    ("put64_tasks", 1000): 28,
    ("put64_threads", 1000): 28,
    ("get", 100): 1.3,
}
# (case, microseconds a flush) -> at least this many requests a second, at most this p99 in milliseconds.
TC_GOALS = {("adds_1", 4000): (220, None), ("adds_64", 4000): (3000, 50)}
RSS_KIB_MAX = 25 * 1024
# case -> what it is, at most so many microseconds of CPU, and those of nim-sds 07491b2 compiled with --mm:orc and as shipped (refc).
SDS = {
    "send_0": ("send, 0 unacknowledged", 10, (200, 4_000)),
    "send_1000": ("send, 1,000 unacknowledged", 10, (5_300, 30_000)),
    "receive_0": ("receive, 0 own unacknowledged", None, (250, 80)),
    "receive_1000": ("receive, 1,000 own unacknowledged", 50, (25_000, 32_000)),
    "relaxed_send_0": ("send, stored relaxed, 0 unacknowledged", 60, (None, 250)),
    "relaxed_send_1000": ("send, stored relaxed, 1,000 unacknowledged", 60, (None, 228_000)),
    "relaxed_receive_0": ("receive, stored relaxed, 0 own unacknowledged", None, None),
    "relaxed_receive_1000": ("receive, stored relaxed, 1,000 own unacknowledged", 60, None),
}
NIM_SDS_WIRE_BYTES = 19_731
# What is compared -> (by what: wall time, CPU or bytes, at most this ratio to automerge alone).
AUTOMERGE_GOALS = {
    "transaction, durable": ("wall_us", 1.2),
    "16 writers, durable": ("flushes", 0.25),
    "load of 10,000 single changes": ("cpu_us", 1.5),
    "load of the snapshot": ("cpu_us", 1.3),
    "1,000 documents of 100 changes": ("cpu_us", None),
    "1,000 documents, compacted": ("cpu_us", None),
    "stored, of raw": ("bytes", 1.6),
    "stored, of save": ("bytes", 1.3),
    "given to the kernel over a life, of raw": ("bytes", 4),
}


def rows(results, part):
    return [json.loads(line) for line in (results / f"{part}.jsonl").read_text().splitlines()]


def medians(rows, *by):
    """The median of every number of the rows that agree in `by`; sums of `server_errors`, `others` and `failed`."""
    groups = defaultdict(list)
    for row in rows:
        row["rate"] = row["ops"] / row["seconds"]
        groups[tuple(row[name] for name in by)].append(row)
    return {
        key: {
            name: (sum if name in ("server_errors", "others", "failed") else median)([row[name] for row in group])
            for name in group[0]
            if isinstance(group[0][name], (int, float))
        }
        for key, group in groups.items()
    }


def verdict(goal, met):
    return f"{goal}: {'pass' if met else '**miss**'}"


def kv(results):
    found = medians(rows(results, "kv"), "contender", "case", "flush_us")
    yield "| flush | case | ops/s | x rusqlite | goal | CPU us/op (rusqlite) | flushes/op (rusqlite) | p50 / p99 us (rusqlite) |"
    yield "|---|---|---|---|---|---|---|---|"
    for us in sorted({key[2] for key in found}):
        for case, peer_case in KV.items():
            ours, peer = found.get(("seabed", case, us)), found.get(("rusqlite", peer_case, us))
            if not ours or not peer:
                continue
            ratio = ours["rate"] / peer["rate"]
            goal = KV_RATIO_MIN.get((case, us))
            goals = [verdict(f"{goal}", ratio >= goal)] if goal else []
            if case == "put":
                goals.append(verdict("1 flush", ours["flushes_per_op"] < 1.01))
            yield (
                f"| {us} us | {case} | {ours['rate']:,.0f} | {ratio:.2f} | "
                f"{', '.join(goals)} | {beside(ours, peer)} |"
            )


def beside(ours, peer):
    """CPU, flushes and percentiles of ours, the peer's in parentheses."""
    return (
        f"{ours['cpu_us_per_op']:.1f} ({peer['cpu_us_per_op']:.1f}) | "
        f"{ours['flushes_per_op']:.3f} ({peer['flushes_per_op']:.3f}) | "
        f"{ours['p50_us']:,.0f} / {ours['p99_us']:,.0f} ({peer['p50_us']:,.0f} / {peer['p99_us']:,.0f})"
    )


def storage(results):
    found = medians(rows(results, "storage"), "contender", "case", "flush_us")
    yield "| flush | case | ops/s | x the original | CPU us/op (original) | flushes/op (original) | p50 / p99 us (original) | failed (original) |"
    yield "|---|---|---|---|---|---|---|---|"
    for _, case, us in sorted((key for key in found if key[0] == "seabed"), key=lambda key: key[2]):
        ours, peer = found["seabed", case, us], found["sqlite", case, us]
        yield (
            f"| {us} us | {case} | {ours['rate']:,.0f} | {ours['rate'] / peer['rate']:.2f} | {beside(ours, peer)} | "
            f"{ours['failed']} ({peer['failed']}) |"
        )


def tc(results):
    found = medians(rows(results, "tc"), "case", "flush_us")
    yield "| flush | load | requests/s | p50 / p99 ms | goal | server CPU us/request | flushes/request | 5xx | other failures |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for (case, us), row in sorted(found.items(), key=lambda item: item[0][1]):
        goals = []
        if (case, us) in TC_GOALS:
            rate, p99 = TC_GOALS[case, us]
            goals.append(verdict(f"{rate:,}/s", row["rate"] >= rate))
            if p99:
                goals.append(verdict(f"p99 {p99} ms", row["p99_us"] <= p99 * 1000))
        if case.startswith("adds"):
            # Closing a log, once in thousands of pushes, is a flush that belongs to no push.
            goals.append(verdict("1 flush", row["flushes_per_op"] <= 1.01))
        goals.append(verdict("no 5xx", row["server_errors"] == 0))
        mix, connections = case.split("_")
        yield (
            f"| {us} us | {mix}, {connections} | {row['rate']:,.0f} | "
            f"{row['p50_us'] / 1000:.2f} / {row['p99_us'] / 1000:.2f} | {', '.join(goals)} | "
            f"{row['cpu_us_per_op']:.0f} | {row['flushes_per_op']:.3f} | {row['server_errors']} | {row['others']} |"
        )


# What a call by hand is held against, and at most so many times its time.
KV_POSTGRES = {"get": ("get", None), "put": ("put", None), "conditional": ("put", 1.5), "batch": ("batch", 1 / 0.95)}


def kv_postgres(results):
    found = medians(rows(results, "kv-postgres"), "contender", "fsync", "case")
    yield "| flushes | case | ops/s | time x by hand | goal | client CPU us/op (by hand) | server CPU us/op (by hand) | p50 / p99 us (by hand) |"
    yield "|---|---|---|---|---|---|---|---|"
    names = {"put": "a put", "conditional": "a check and a put, beside a put by hand", "batch": "a batch of 100 puts", "get": "a get"}
    for fsync in ("on", "off"):
        for case, (peer_case, times_max) in KV_POSTGRES.items():
            ours, peer = found["seabed", fsync, case], found["by_hand", fsync, peer_case]
            times = ours["p50_us"] / peer["p50_us"]
            server = [row["server_cpu_us"] / row["ops"] for row in (ours, peer)]
            yield (
                f"| {fsync} | {names[case]} | {ours['rate']:,.0f} | {times:.2f} | {verdict(f'{times_max:.2f}', times <= times_max) if times_max else ''} | "
                f"{ours['cpu_us_per_op']:.0f} ({peer['cpu_us_per_op']:.0f}) | {server[0]:.0f} ({server[1]:.0f}) | "
                f"{ours['p50_us']:,.0f} / {ours['p99_us']:,.0f} ({peer['p50_us']:,.0f} / {peer['p99_us']:,.0f}) |"
            )


def tc_postgres(results):
    found = medians(rows(results, "tc-postgres"), "instances", "case")
    yield "| servers | connections | pushes/s | p50 / p99 ms | servers' CPU us/push | 5xx | other failures |"
    yield "|---|---|---|---|---|---|---|"
    for (instances, case), row in sorted(found.items(), key=lambda item: (item[0][0], int(item[0][1].split("_")[1]))):
        yield (
            f"| {instances} | {case.split('_')[1]} | {row['rate']:,.0f} | {row['p50_us'] / 1000:.2f} / {row['p99_us'] / 1000:.2f} | "
            f"{row['cpu_us_per_op']:.0f} | {row['server_errors']} | {row['others']} |"
        )


def rss(results):
    yield "| an idle `seabed serve` | resident MiB | goal |"
    yield "|---|---|---|"
    for row in rows(results, "rss"):
        yield f"| {row['case']} | {row['kib'] / 1024:.1f} | {verdict('25 MiB', row['kib'] <= RSS_KIB_MAX)} |"


def automerge(results):
    groups = defaultdict(list)
    for row in rows(results, "automerge"):
        # The number of compactions is in the name, and may differ by one.
        groups[re.sub(r"\d+ compactions", "compactions", row["case"])].append(row)
    yield "| | ours | automerge alone | x | goal | CPU us (alone) | flushes (alone) |"
    yield "|---|---|---|---|---|---|---|"
    for case, group in groups.items():
        of = {name: median(row[name] for row in group) for name in group[0] if name != "case"}
        by, goal = AUTOMERGE_GOALS.get(case, ("bytes" if "bytes" in of else "wall_us", None))
        ours, alone = of[by], of[f"plain_{by}"]
        ratio = ours / alone if alone else 0
        if case.startswith("batches"):
            goal, met = 0, ours == 0
        else:
            met = goal is not None and ratio <= goal
        unit = {"bytes": "" if case.startswith("batches") else " B", "flushes": " flushes"}.get(by, " us")
        cpu = f"{of['cpu_us']:,.1f} ({of['plain_cpu_us']:,.1f})" if "cpu_us" in of else ""
        flushes = f"{of['flushes']:.3f} ({of['plain_flushes']:.3f})" if "flushes" in of else ""
        kind = " (CPU)" if by == "cpu_us" else ""
        amount = (lambda value: f"{value:,.3f}") if by == "flushes" else (lambda value: f"{value:,.0f}")
        yield (
            f"| {case}{kind} | {amount(ours)}{unit} | {amount(alone)}{unit} | {ratio:.2f} | "
            f"{verdict(goal, met) if goal is not None else ''} | {cpu} | {flushes} |"
        )


def automerge_live(results):
    every = rows(results, "automerge-live")
    found = medians((row for row in every if "ops" in row), "contender", "case")
    yield "| | edits/s (automerge-repo) | server CPU us/edit (automerge-repo) | flushes/edit (automerge-repo) | p50 / p99 ms from edit to acknowledgement (automerge-repo) |"
    yield "|---|---|---|---|---|"
    for case, name in (("one_50", "50 clients, one document"), ("many_50", "50 clients, a document each")):
        ours, peer = found["seabed", case], found["automerge-repo", case]
        yield (
            f"| {name} | {ours['rate']:,.0f} ({peer['rate']:,.0f}) | {ours['cpu_us_per_op']:,.0f} ({peer['cpu_us_per_op']:,.0f}) | "
            f"{ours['flushes_per_op']:.3f} ({peer['flushes_per_op']:.3f}) | {ours['p50_us'] / 1000:.1f} / {ours['p99_us'] / 1000:.1f} "
            f"({peer['p50_us'] / 1000:.1f} / {peer['p99_us'] / 1000:.1f}) |"
        )
    yield ""
    yield "| resident MiB | `seabed serve` | automerge-repo |"
    yield "|---|---|---|"
    for case in ("fresh", "after 2,000 documents"):
        ours, peer = (
            median(row["kib"] for row in every if row["contender"] == contender and row["case"] == case) / 1024
            for contender in ("seabed", "automerge-repo")
        )
        yield f"| {case} | {ours:.1f} | {peer:.1f} |"


def tenants(results):
    every = rows(results, "tenants")
    kib = median(row["kib_per_tenant"] for row in every if "kib_per_tenant" in row)
    found = medians((row for row in every if "ops" in row), "case")
    all_open, few_open = found["tenants_all_open",], found["tenants_few_open",]
    of_many = found["tenants_256_open",]
    stays, evicted = found["tenant_stays_open",], found["tenant_evicted",]
    share = lambda row: row["rate"] / all_open["rate"]
    load = lambda row: f"{row['rate']:,.0f}/s, p99 {row['p99_us'] / 1000:.1f} ms, {row['cpu_us_per_op']:.0f} us of CPU and {row['flushes_per_op']:.2f} flushes a put"
    # By the median: the rate of the one client there is counts when others have the processor, too.
    extra_us = evicted["p50_us"] - stays["p50_us"]
    extra_flushes = evicted["flushes_per_op"] - stays["flushes_per_op"]
    yield "| | measured | goal |"
    yield "|---|---|---|"
    yield f"| an open tenant, written once | {kib:.1f} KiB | {verdict('80 KiB', kib <= 80)} |"
    yield f"| evicting one and opening another again | {extra_us:.0f} us | {verdict('200 us', extra_us <= 200)} |"
    yield f"| flushes of that | {extra_flushes:.3f} | {verdict('0', extra_flushes < 0.01)} |"
    yield f"| durable puts to 1,600 tenants, all of them open | {load(all_open)} | |"
    yield f"| to 10,000 tenants, 256 of them open | {load(of_many)}: {share(of_many):.2f} of it | {verdict('0.5', share(of_many) >= 0.5)} |"
    yield f"| to 1,600 tenants, 41 of them open | {load(few_open)}: {share(few_open):.2f} of it | |"


def sds(results):
    groups = defaultdict(list)
    for row in rows(results, "sds"):
        groups[row["case"]].append(row)
    found = lambda case, name: median(row[name] for row in groups[case])
    yield "| operation | CPU us | goal | nim-sds, orc / refc: CPU us | x less | bytes written | flushes |"
    yield "|---|---|---|---|---|---|---|"
    for case, (what, goal, theirs) in SDS.items():
        cpu = found(case, "cpu_us_per_op")
        goals = verdict(f"{goal} us", cpu <= goal) if goal else ""
        # Against the better of the two.
        best = min(us for us in theirs if us) if theirs else None
        theirs = " / ".join(f"{us:,}" if us else "-" for us in theirs) if theirs else ""
        stored = case.startswith("relaxed")
        written = f"{found(case, 'bytes_per_op'):,.0f} | {found(case, 'flushes_per_op'):.3f}" if stored else " | "
        yield f"| {what} | {cpu:.1f} | {goals} | {theirs} | {f'{best / cpu:,.1f}' if best else ''} | {written} |"
    flushes = found("durable_64", "flushes_per_op")
    yield (
        f"| send, durable, 64 channels at once | {found('durable_64', 'cpu_us_per_op'):.1f} | {verdict('0.1 flushes', flushes <= 0.1)} | "
        f" |  |  | {flushes:.3f} |"
    )
    yield ""
    yield "| | measured | goal |"
    yield "|---|---|---|"
    for ids in (0, 200, 1_000, 10_000):
        size = found("wire", f"ids_{ids}")
        goal = verdict("1,500 bytes", size <= 1_500) if ids == 200 else ""
        yield f"| a message of 100 bytes, {ids:,} ids in the horizon | {size:,.0f} bytes (nim-sds: {NIM_SDS_WIRE_BYTES:,}) | {goal} |"
    for entries in (1_000, 10_000):
        yield f"| loading a channel with {entries:,} entries | {found(f'load_{entries}', 'cpu_us_per_op') / 1000:,.1f} ms of CPU | |"
    yield f"| memory of a channel that has just been made | {found('memory_empty', 'kib_per_channel'):,.1f} KiB | |"
    yield f"| memory of a channel with 1,000 messages of 100 bytes | {found('memory_full', 'kib_per_channel'):,.0f} KiB | |"


def main():
    arguments = sys.argv[1:]
    update = "--update" in arguments
    results, *parts = [argument for argument in arguments if argument != "--update"]
    for part in parts:
        tables = {"kv": kv, "tc": tc, "storage": storage, "tenants": tenants, "sds": sds, "rss": rss, "automerge": automerge, "automerge-live": automerge_live, "kv-postgres": kv_postgres, "tc-postgres": tc_postgres}
        table = "\n".join(tables[part](Path(results)))
        if not update:
            print(f"\n{table}")
            continue
        document = DOCUMENTS / ("operate/scale.md" if part == "tc-postgres" else "performance.md")
        text = document.read_text()
        text, times = re.subn(f"(<!-- {part} -->\n).*?(<!-- /{part} -->)", lambda m: f"{m[1]}{table}\n{m[2]}", text, flags=re.S)
        if times == 0:
            print(f"\n{document.name} has no place for {part}:\n\n{table}")
        document.write_text(text)


main()
