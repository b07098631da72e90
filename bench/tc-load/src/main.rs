//! A crowd of TaskChampion clients: `tc-load ADDRESS,.. adds|gets|mixed CONNECTIONS SECONDS PID,.. COUNT_FILE`.
//!
//! Each connection is a client of its own and sends one request after the other over HTTP/1.1 with keep-alive, as the real one
//! does. `adds` pushes versions of 1 KiB; `gets` reads its chain from the beginning again and again; `mixed` does what a
//! sync with something to say does: a get answered "up to date", a push, a get answered "up to date". The connections are dealt out among
//! the addresses. PID and COUNT_FILE say which servers' CPU and flushes are counted. Prints a line of JSON.

use std::collections::BTreeMap;
use std::rc::Rc;

use measure::{Laps, Meter, Observed, payload};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const NIL: &str = "00000000-0000-0000-0000-000000000000";
const SEGMENT: &str = "application/vnd.taskchampion.history-segment";
/// How long the chain is that `gets` reads.
const CHAIN: usize = 10;

type Statuses = BTreeMap<u16, u64>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, mix, connections, seconds, pid, flush_count] = arguments.as_slice() else {
        eprintln!("usage: tc-load ADDRESS,.. adds|gets|mixed CONNECTIONS SECONDS PID,.. COUNT_FILE");
        std::process::exit(2);
    };
    let connections: usize = connections.parse().expect("a number of connections");
    let pids = pid.split(',').map(|pid| pid.parse().expect("a pid")).collect();
    let observed = Observed::Server { pids, flush_count: flush_count.into() };

    // Everybody is known to the server before the first lap: creating clients is not what is measured.
    let mut clients = Vec::new();
    for address in address.split(',').cycle().take(connections) {
        let mut client = Client::connect(address).await?;
        for _ in 0..CHAIN {
            assert_eq!(client.add().await?, 200, "the first pushes");
        }
        clients.push(client);
    }
    let meter = Rc::new(Meter::start(seconds.parse().expect("seconds"), observed));
    let crowd = tokio::task::LocalSet::new();
    let running: Vec<_> =
        clients.into_iter().map(|client| crowd.spawn_local(client.run(mix.clone(), meter.laps()))).collect();
    crowd.await;
    let (mut laps, mut statuses) = (Vec::new(), Statuses::new());
    for client in running {
        let (client_laps, client_statuses) = client.await.expect("no panic")?;
        laps.push(client_laps);
        client_statuses.into_iter().for_each(|(status, times)| *statuses.entry(status).or_default() += times);
    }
    let of = |range: std::ops::Range<u16>| statuses.range(range).map(|(_, times)| times).sum();
    let counts = [("ok", of(200..300)), ("up_to_date", of(404..405)), ("server_errors", of(500..600))];
    let others = statuses.values().sum::<u64>() - counts.iter().map(|(_, times)| times).sum::<u64>();
    let meter = Rc::into_inner(meter).expect("the crowd is gone");
    let [ok, up_to_date, server_errors] = counts;
    meter.print(&format!("{mix}_{connections}"), laps, &[ok, up_to_date, server_errors, ("others", others)]);
    Ok(())
}

struct Client {
    stream: TcpStream,
    id: String,
    latest: String,
    input: Vec<u8>,
}

struct Answer {
    status: u16,
    version: Option<String>,
}

impl Client {
    async fn connect(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
        Ok(Self { stream, id, latest: NIL.to_owned(), input: Vec::new() })
    }

    async fn run(mut self, mix: String, mut laps: Laps) -> std::io::Result<(Laps, Statuses)> {
        let mut statuses = Statuses::new();
        let mut read = NIL.to_owned();
        while let Some(lap) = laps.next() {
            let status = match (mix.as_str(), lap % 3) {
                ("adds", _) | ("mixed", 1) => self.add().await?,
                ("mixed", _) => self.get(&self.latest.clone()).await?.status,
                ("gets", _) => {
                    let answer = self.get(&read).await?;
                    read = answer.version.unwrap_or_else(|| NIL.to_owned());
                    answer.status
                }
                _ => panic!("no such mix: {mix}"),
            };
            *statuses.entry(status).or_default() += 1;
        }
        Ok((laps, statuses))
    }

    async fn add(&mut self) -> std::io::Result<u16> {
        let body: Vec<u8> = payload(0, 0).repeat(10).into_iter().chain([0; 24]).collect();
        let head = format!(
            "POST /v1/client/add-version/{} HTTP/1.1\r\nHost: bench\r\nX-Client-Id: {}\r\n\
             Content-Type: {SEGMENT}\r\nContent-Length: {}\r\n\r\n",
            self.latest,
            self.id,
            body.len()
        );
        let answer = self.ask([head.as_bytes(), &body].concat()).await?;
        if let Some(version) = answer.version {
            self.latest = version;
        }
        Ok(answer.status)
    }

    async fn get(&mut self, parent: &str) -> std::io::Result<Answer> {
        let head = format!(
            "GET /v1/client/get-child-version/{parent} HTTP/1.1\r\nHost: bench\r\nX-Client-Id: {}\r\n\r\n",
            self.id
        );
        self.ask(head.into_bytes()).await
    }

    async fn ask(&mut self, request: Vec<u8>) -> std::io::Result<Answer> {
        self.stream.write_all(&request).await?;
        self.input.clear();
        let (head, body) = loop {
            if let Some(end) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                break (String::from_utf8_lossy(&self.input[..end]).into_owned(), end + 4);
            }
            self.fill().await?;
        };
        let header = |name: &str| {
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .find_map(|(n, value)| n.eq_ignore_ascii_case(name).then_some(value))
        };
        let length: usize = header("content-length").expect("a length").parse().expect("a number");
        while self.input.len() < body + length {
            self.fill().await?;
        }
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        Ok(Answer { status, version: header("x-version-id").map(str::to_owned) })
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
