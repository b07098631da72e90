//! Conditional batches: several rows change together, and only if what was read still holds.
//! `cargo run -p seabed-kv --example conditional_batches`.

#![allow(clippy::expect_used, reason = "a thread that panics ends the example")]

use seabed_kv::{Batch, Durability, KeyRange, KeyReader, Outcome, Result, Store, Tenant};

const ACCOUNTS: [&str; 3] = ["alice", "bob", "carol"];
const TRANSFERS: u64 = 20;

fn balance(payload: Option<&[u8]>) -> i64 {
    payload.and_then(|payload| KeyReader::new(payload).int()).unwrap_or(0)
}

/// Moves an amount from one account to another, and notes it in the log; `false` when there is not enough.
///
/// What was read becomes a check of the batch. When another writer was quicker the batch is refused as a whole: then read
/// again and decide again. There is nothing to lock, nothing to undo, and no transaction that could be left open.
fn transfer(bank: &Tenant, from: &str, to: &str, amount: i64, number: u64) -> Result<bool> {
    loop {
        let before = [bank.get("account", from).wait()?, bank.get("account", to).wait()?];
        let [from_balance, to_balance] = before.each_ref().map(|payload| balance(payload.as_deref()));
        if from_balance < amount {
            return Ok(false);
        }
        let mut batch = Batch::new();
        for (account, payload) in [from, to].into_iter().zip(before) {
            match payload {
                Some(payload) => batch.check_equals("account", account, payload),
                None => batch.check_absent("account", account),
            };
        }
        batch.put_encoded("account", from, from_balance - amount)?;
        batch.put_encoded("account", to, to_balance + amount)?;
        batch.put_encoded("log", number.to_be_bytes(), (from, to, amount))?;
        match bank.apply(batch, Durability::Durable).wait()? {
            Outcome::Applied(_) => return Ok(true),
            // It says which check did not hold, and what the row held instead.
            Outcome::Refused(refusal) => assert!(refusal.check < 2),
        }
    }
}

fn main() -> Result<()> {
    let store = Store::memory(); // the same on `Store::sqlite(root)?`
    let bank = store.open("bank").wait()?;
    for account in ACCOUNTS {
        bank.put_encoded("account", account, 100_i64).wait()?;
    }
    // Everybody pays everybody at once.
    let pairs = ACCOUNTS.iter().flat_map(|from| ACCOUNTS.iter().map(move |to| (*from, *to)));
    let transferred = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(pairs.filter(|(from, to)| from != to))
            .map(|(thread, (from, to))| {
                let bank = &bank;
                scope.spawn(move || -> Result<u64> {
                    let mut transferred = 0;
                    for number in thread * TRANSFERS..(thread + 1) * TRANSFERS {
                        transferred += u64::from(transfer(bank, from, to, 7, number)?);
                    }
                    Ok(transferred)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).sum::<Result<u64>>()
    })?;
    let mut sum = 0;
    for account in ACCOUNTS {
        let left = balance(bank.get("account", account).wait()?.as_deref());
        assert!(left >= 0);
        sum += left;
    }
    assert_eq!(sum, 300, "no update was lost");
    assert_eq!(bank.count("log", &KeyRange::all()).wait()?, transferred, "and each is in the log");
    store.close().wait()
}

#[test]
fn shows_what_it_says() {
    main().unwrap();
}
