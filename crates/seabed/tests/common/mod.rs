//! The real binary in a temporary directory, and a client that can also misbehave.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a helper that fails is a test that fails"
)]

pub(crate) mod lines;
pub(crate) mod readme;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A server that hangs fails the test instead of hanging it.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) const NIL: &str = "00000000-0000-0000-0000-000000000000";
pub(crate) const SEGMENT: &str = "application/vnd.taskchampion.history-segment";
pub(crate) const SNAPSHOT: &str = "application/vnd.taskchampion.snapshot";

/// The program, without anything that the tester's environment says to it.
pub(crate) fn seabed() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seabed"));
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| name.starts_with("SEABED_"));
        let original = [
            "LISTEN",
            "CLIENT_ID",
            "CREATE_CLIENTS",
            "SNAPSHOT_VERSIONS",
            "SNAPSHOT_DAYS",
            "DATA_DIR",
            "RUST_LOG",
        ];
        if ours || original.iter().any(|original| name == *original) {
            command.env_remove(name);
        }
    }
    command
}

/// A fresh seed, printed; or the one that `SEABED_TEST_SEED` asks for, to see a failure again.
pub(crate) fn seed() -> u64 {
    let asked = std::env::var("SEABED_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = asked.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    eprintln!("SEABED_TEST_SEED={seed}");
    seed
}

/// Runs a command on the store in `dir` to its end.
pub(crate) fn run(dir: &Path, args: &[&str]) -> Output {
    seabed().args(args).env("DATA_DIR", dir).stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A command's `--json`, after it succeeded.
pub(crate) fn json(dir: &Path, args: &[&str]) -> serde_json::Value {
    let output = run(dir, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A running server. Killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    /// What it printed before it was ready.
    pub(crate) banner: String,
    /// host:port of each listener.
    pub(crate) addresses: Vec<String>,
    logs: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `dir` on a port of its own choice, and waits until it says that it serves.
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[], &[])
    }

    pub(crate) fn start_with(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = seabed();
        command.arg("serve").args(args).env("DATA_DIR", dir).env("LISTEN", "127.0.0.1:0");
        command.envs(variables.iter().copied());
        Self::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let logs = Arc::new(Mutex::new(String::new()));
        let mut source = BufReader::new(child.stderr.take().unwrap());
        let log_reader = std::thread::spawn({
            let logs = logs.clone();
            move || {
                let mut line = String::new();
                while source.read_line(&mut line).is_ok_and(|read| read > 0) {
                    logs.lock().unwrap().push_str(&std::mem::take(&mut line));
                }
            }
        });
        let mut banner = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !banner.lines().any(|line| line.starts_with("ready:")) {
            let read = out.read_line(&mut banner).unwrap();
            assert!(read > 0, "the server ended before it was ready: {}", {
                child.wait().unwrap();
                logs.lock().unwrap()
            });
        }
        let ready = banner.lines().find_map(|line| line.strip_prefix("ready: serving on ")).unwrap();
        let addresses = ready.split(' ').map(|url| url.trim_start_matches("http://").to_owned()).collect();
        Self { child, banner, addresses, logs, log_reader: Some(log_reader) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.addresses[0]
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    pub(crate) fn logs(&self) -> String {
        self.logs.lock().unwrap().clone()
    }

    /// Ends it as a power switch would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Ends it in order, and tells how it ended and what it logged.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.log_reader.take().unwrap().join().unwrap();
        (status, self.logs())
    }

    /// The memory that is its own, by the kernel's account; files that it has mapped are the system's cache.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The most of it that was seen while something went on.
    pub(crate) fn peak_memory_while(&self, work: impl FnOnce()) -> u64 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut peak = 0;
                while !done.load(Ordering::Relaxed) {
                    peak = peak.max(self.memory_bytes());
                    std::thread::yield_now();
                }
                peak
            });
            let ended = Ended(&done);
            work();
            drop(ended);
            watching.join().unwrap()
        })
    }

    /// A connection to misuse.
    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        request(self.address(), "GET", path, headers, b"").unwrap()
    }

    /// The status of the answer to a request that may be answered by another protocol.
    pub(crate) fn get_head(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut stream = BufReader::new(self.connect());
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.address());
        for (name, value) in headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        stream.get_mut().write_all(format!("{head}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap()
    }

    /// A request of a TaskChampion client.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        client: &str,
        media_type: &str,
        body: &[u8],
    ) -> Answer {
        let headers = [("X-Client-Id", client), ("Content-Type", media_type)];
        request(self.address(), method, path, &headers, body).unwrap()
    }

    pub(crate) fn add_version(&self, client: &str, parent: &str, body: &[u8]) -> Answer {
        self.ask("POST", &format!("/v1/client/add-version/{parent}"), client, SEGMENT, body)
    }

    pub(crate) fn get_child(&self, client: &str, parent: &str) -> Answer {
        self.ask("GET", &format!("/v1/client/get-child-version/{parent}"), client, "", b"")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says that something is over, also when it panicked.
pub(crate) struct Ended<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// One request on a connection of its own.
pub(crate) fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    request_over(stream, address, method, path, headers, body)
}

/// One request of the owner, through the socket of the server of `dir`.
pub(crate) fn owner_request(dir: &Path, method: &str, path: &str) -> std::io::Result<Answer> {
    owner_request_with(dir, method, path, b"")
}

/// The same, with a body.
pub(crate) fn owner_request_with(
    dir: &Path,
    method: &str,
    path: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let stream = UnixStream::connect(dir.join("seabed.sock"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    request_over(stream, "localhost", method, path, &[], body)
}

fn request_over(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        let _ = write!(head, "Host: {host}\r\n");
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if method != "GET" {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A server may refuse a body before it has read all of it.
    let _ = stream.write_all(body);
    read_answer(&mut stream)
}

/// Reads to the end of the connection.
pub(crate) fn read_answer(stream: &mut impl Read) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut block = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut block) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&block[..read]),
            // A refused body that is still under way ends in a reset; what was answered before it counts.
            Err(_) if bytes.windows(4).any(|window| window == b"\r\n\r\n") => break,
            Err(error) => return Err(error),
        }
    }
    let cut = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the answer was cut off");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(cut)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(cut)?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = bytes[end + 4..].to_vec();
    let answer = Answer { status, headers, body };
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    if length.is_some_and(|length: usize| answer.body.len() < length) {
        return Err(cut());
    }
    Ok(answer)
}

/// A client's whole history from its beginning: version, parent and body of each link.
pub(crate) fn chain(server: &Server, client: &str) -> Vec<(String, String, Vec<u8>)> {
    let mut chain = Vec::new();
    let mut parent = NIL.to_owned();
    loop {
        let answer = server.get_child(client, &parent);
        match answer.status {
            200 => {
                assert_eq!(answer.header("x-parent-version-id"), Some(parent.as_str()));
                let version = answer.header("x-version-id").unwrap().to_owned();
                chain.push((version.clone(), parent, answer.body));
                parent = version;
            }
            404 => return chain,
            status => panic!("{status} for the child of {parent}: {}", answer.text()),
        }
    }
}
