//! What every contender measures alike: the rows, the laps of each client, CPU, flushes and percentiles.

use std::time::{Duration, Instant};

/// How many rows there are before a case begins: well past SQLite's default cache of 2 MB.
pub const ROWS: u64 = 120_000;
/// How many of them a hot get chooses among.
pub const HOT_ROWS: u64 = 20_000;
/// How many clients the crowded cases have.
pub const CROWD: u64 = 64;
/// The category of every row.
pub const CATEGORY: &[u8; 7] = b"message";

/// The key of a row: 24 bytes, as a channel and a number make.
pub fn key(row: u64) -> [u8; 24] {
    let mut key = *b"\x00\x0cchannel-0001\x00\x00........";
    key[16..].copy_from_slice(&row.to_be_bytes());
    key
}

/// A row chosen at random, the same in every contender.
pub fn any_row(client: u64, lap: u64, rows: u64) -> u64 {
    let mut x = (client << 40 | lap).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x ^ (x >> 31)) % rows
}

/// A payload of 100 bytes that no earlier write wrote: SQLite leaves a page alone when its bytes stay the same.
pub fn payload(client: u64, lap: u64) -> Vec<u8> {
    let mut payload = vec![0x5A; 100];
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    payload[..16].copy_from_slice(&now.to_le_bytes());
    payload[16..24].copy_from_slice(&client.to_le_bytes());
    payload[24..32].copy_from_slice(&lap.to_le_bytes());
    payload
}

/// One client's operations until the time is over, each with its duration.
pub struct Laps {
    until: Instant,
    began: Option<Instant>,
    ns: Vec<u32>,
}

impl Laps {
    /// Ends a lap and begins the next: its number, or nothing when the time is over.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<u64> {
        let now = Instant::now();
        if let Some(began) = self.began {
            self.ns.push((now - began).as_nanos().try_into().unwrap_or(u32::MAX));
        }
        self.began = Some(now);
        (now < self.until).then_some(self.ns.len() as u64)
    }
}

/// Whose CPU and flushes a case counts.
pub enum Observed {
    /// This process, under the preloaded flush model.
    Own,
    /// A server beside it, under the same model told to count in a file.
    Server { pids: Vec<u32>, flush_count: std::path::PathBuf },
}

/// One case, from before the first operation to after the last.
pub struct Meter {
    observed: Observed,
    began: Instant,
    until: Instant,
    cpu_us: u64,
    flushes: u64,
}

impl Meter {
    pub fn start(seconds: f64, observed: Observed) -> Self {
        let (cpu_us, flushes) = (observed.cpu_us(), observed.flushes());
        let began = Instant::now();
        Self { observed, began, until: began + Duration::from_secs_f64(seconds), cpu_us, flushes }
    }

    pub fn laps(&self) -> Laps {
        Laps { until: self.until, began: None, ns: Vec::new() }
    }

    /// Prints the case as a line of JSON, with further fields of the caller's.
    pub fn print(self, case: &str, laps: impl IntoIterator<Item = Laps>, fields: &[(&str, u64)]) {
        let seconds = self.began.elapsed().as_secs_f64();
        let cpu_us = self.observed.cpu_us() - self.cpu_us;
        let flushes = self.observed.flushes() - self.flushes;
        let mut ns: Vec<u32> = laps.into_iter().flat_map(|laps| laps.ns).collect();
        ns.sort_unstable();
        let percentile = |of: usize| f64::from(ns.get(ns.len() * of / 100).copied().unwrap_or(0)) / 1e3;
        let ops = ns.len().max(1) as f64;
        let fields: String = fields.iter().map(|(name, value)| format!(r#","{name}":{value}"#)).collect();
        println!(
            r#"{{"case":"{case}","ops":{},"seconds":{seconds:.3},"cpu_us_per_op":{:.2},"flushes_per_op":{:.3},"p50_us":{:.1},"p99_us":{:.1}{fields}}}"#,
            ns.len(),
            cpu_us as f64 / ops,
            flushes as f64 / ops,
            percentile(50),
            percentile(99),
        );
    }
}

impl Observed {
    /// User and system time so far.
    pub fn cpu_us(&self) -> u64 {
        match self {
            Self::Own => {
                // SAFETY: getrusage fills the struct it is given; all zeroes is a valid one.
                let usage = unsafe {
                    let mut usage: libc::rusage = std::mem::zeroed();
                    libc::getrusage(libc::RUSAGE_SELF, &mut usage);
                    usage
                };
                let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
                us(usage.ru_utime) + us(usage.ru_stime)
            }
            Self::Server { pids, .. } => {
                let of = |pid: &u32| {
                    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running server");
                    // Fields 14 and 15 in ticks of 10 ms; the second field is a name that may hold blanks.
                    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
                    let ticks = fields.split_whitespace().skip(11).take(2);
                    ticks.map(|ticks| ticks.parse::<u64>().expect("ticks") * 10_000).sum::<u64>()
                };
                pids.iter().map(of).sum()
            }
        }
    }

    /// Flushes so far, as the preloaded model counts them. Without the model this panics: zeros would look like results.
    pub fn flushes(&self) -> u64 {
        match self {
            // SAFETY: the symbol, when it is there, is flush-model's `uint64_t flush_count(void)`.
            Self::Own => unsafe {
                let symbol = libc::dlsym(libc::RTLD_DEFAULT, c"flush_count".as_ptr());
                assert!(!symbol.is_null(), "run this through bench/run.sh, which preloads the flush model");
                std::mem::transmute::<*mut libc::c_void, extern "C" fn() -> u64>(symbol)()
            },
            Self::Server { flush_count, .. } => {
                let count = std::fs::read(flush_count).expect("the model's count file");
                u64::from_ne_bytes(count.try_into().expect("8 bytes"))
            }
        }
    }
}
