//! `sds DIR CASE SECONDS`: prints a line of JSON.
//!
//! Every case has the default configuration of profile `seabed` in dialect N, contents of 100 bytes, ids of 66 bytes, and a full log of 1,000
//! messages of another participant, nine seconds apart: 200 of them are in the filter's horizon. `N` own messages are unacknowledged.

mod persisted;
mod pure;
mod room;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, case, seconds] = arguments.as_slice() else { panic!("usage: sds DIR CASE SECONDS") };
    let seconds = seconds.parse().expect("seconds");
    match case.as_str() {
        "send_0" => pure::send(case, 0, seconds),
        "send_1000" => pure::send(case, 1_000, seconds),
        "receive_0" => pure::receive(case, 0, seconds),
        "receive_1000" => pure::receive(case, 1_000, seconds),
        "wire" => pure::wire(),
        "relaxed_send_0" => persisted::send(directory, case, 0),
        "relaxed_send_1000" => persisted::send(directory, case, 1_000),
        "relaxed_receive_0" => persisted::receive(directory, case, 0),
        "relaxed_receive_1000" => persisted::receive(directory, case, 1_000),
        "durable_64" => persisted::durable(directory, case, seconds),
        "load_1000" => persisted::load(directory, case, 1_000),
        "load_10000" => persisted::load(directory, case, 10_000),
        "memory_empty" => persisted::memory(case, 0),
        "memory_full" => persisted::memory(case, 1_000),
        _ => panic!("no such case: {case}"),
    }
}
