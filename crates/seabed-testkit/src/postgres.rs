//! Throw-away PostgreSQL servers: a cluster in a temporary directory, its standby, and `PgBouncer` in front of it.
//!
//! ```no_run
//! use seabed_testkit::postgres::Cluster;
//!
//! let cluster = Cluster::start();
//! let url = cluster.create_database();
//! assert!(url.starts_with("postgres://postgres@127.0.0.1:"));
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a helper that fails is a test that fails"
)]

mod session;
mod tls;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use self::session::Session;
use crate::Rng;
use crate::process::{Process, Signal, User};

/// How often a server may lose its port to somebody else while it starts.
const ATTEMPTS_MAX: usize = 8;

/// What every server is started with, beside its directory and port. Durability is as its makers ship it.
const SETTINGS: &[&str] = &["listen_addresses=127.0.0.1", "shared_buffers=16MB", "log_line_prefix=%p "];

/// The sessions of clients, but for the one that asks.
const SESSIONS: &str =
    "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

/// A PostgreSQL server with a directory of its own: loopback and a socket, everybody is trusted. It ends when this is dropped,
/// and when the test dies.
#[derive(Debug)]
pub struct Cluster {
    bin: PathBuf,
    user: Option<User>,
    directory: TempDir,
    port: u16,
    settings: Vec<String>,
    /// `None` while it is stopped.
    process: Option<Process>,
    databases: AtomicU32,
    session: Mutex<Option<Session>>,
}

impl Cluster {
    /// A new one, which holds nothing.
    ///
    /// It runs the programs in the directory that `SEABED_POSTGRES_BIN` names, else the newest of `/usr/lib/postgresql`, else those in `PATH`.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with other settings: `["max_connections=20"]`.
    pub fn start_with(settings: &[&str]) -> Self {
        let (bin, user) = (binaries(), User::unprivileged());
        let directory = directory(user);
        let data = directory.path().join("data");
        copy(&template(&bin, user), &data, user);
        let mut cluster = Self::stopped(bin, user, directory, settings);
        cluster.start_again();
        cluster
    }

    /// One that encrypts, with a certificate for `localhost`, and lets the role `seabed` in over TLS alone.
    pub fn start_tls() -> Self {
        let (bin, user) = (binaries(), User::unprivileged());
        let directory = directory(user);
        let settings = tls::prepare(directory.path(), user);
        copy(&template(&bin, user), &directory.path().join("data"), user);
        let settings: Vec<_> = settings.iter().map(String::as_str).collect();
        let mut cluster = Self::stopped(bin, user, directory, &settings);
        cluster.start_again();
        cluster.sql("postgres", "CREATE ROLE seabed SUPERUSER LOGIN");
        cluster
    }

    /// The file with the authority that has signed the certificate of a cluster that encrypts.
    pub fn authority(&self) -> PathBuf {
        tls::authority(self.directory.path())
    }

    fn stopped(bin: PathBuf, user: Option<User>, directory: TempDir, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let (port, process, databases) = (0, None, AtomicU32::new(0));
        Self { bin, user, directory, port, settings, process, databases, session: Mutex::default() }
    }

    /// How to reach one of its databases. `postgres` is always there.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// A new database, and how to reach it.
    pub fn create_database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// Its port on the loopback interface; the same one after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it answers to a statement, a line a row, columns separated by `|`.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        self.try_sql(database, statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// The same, where a failure is an answer.
    ///
    /// # Errors
    /// What the server says.
    pub fn try_sql(&self, database: &str, statement: &str) -> Result<String, String> {
        let mut kept = self.session.lock().unwrap();
        // One to `postgres` is kept, until a stop of the server breaks it.
        if database == "postgres"
            && let Some(session) = kept.as_mut()
            && let Ok(answer) = session.ask(statement)
        {
            return answer;
        }
        let mut session = Session::start(self.port, database).map_err(|error| error.to_string())?;
        let answer = session.ask(statement).map_err(|error| error.to_string())?;
        if database == "postgres" {
            *kept = Some(session);
        }
        answer
    }

    /// What `psql` prints for a statement by another way to the server: a URL through a proxy.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn sql_at(&self, url: &str, statement: &str) -> Result<String, String> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement]);
        run(&mut psql)
    }

    /// Waits until no client's session is at work, in a transaction, or holds a lock.
    pub fn wait_quiet(&self) {
        let locks = "EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid)";
        self.wait_for_no_session(&format!("(state IS DISTINCT FROM 'idle' OR {locks})"));
    }

    /// Waits until no session is left that came from one of those ports. One whose client is gone still carries out what it was sent
    /// before, and until it has read that it looks idle.
    pub fn wait_gone(&self, ports: &[u16]) {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        self.wait_for_no_session(&format!("client_port::text = ANY ('{{{}}}')", ports.join(",")));
    }

    /// Waits until no client's session is left.
    pub fn wait_alone(&self) {
        self.wait_for_no_session("true");
    }

    /// Waits until no client's session is left in that database.
    pub fn wait_alone_in(&self, database: &str) {
        self.wait_for_no_session(&format!("datname = '{database}'"));
    }

    /// Waits until a client's session waits for that: a lock, or the standby.
    pub fn wait_waiting(&self, event: &str) {
        self.wait_until(&format!("EXISTS ({SESSIONS} AND wait_event = '{event}')"));
    }

    fn wait_for_no_session(&self, condition: &str) {
        self.wait_until(&format!("NOT EXISTS ({SESSIONS} AND {condition})"));
    }

    /// The server looks again and again: it has no event for what its sessions do.
    fn wait_until(&self, condition: &str) {
        let looks = 60_000 / 5;
        let wait = format!(
            "DO $$ BEGIN FOR look IN 1..{looks} LOOP PERFORM pg_stat_clear_snapshot(); EXIT WHEN {condition}; \
             ASSERT look < {looks}, 'it does not become so'; PERFORM pg_sleep(0.005); END LOOP; END $$"
        );
        let sessions = "SELECT pid, state, wait_event, query FROM pg_stat_activity WHERE backend_type = 'client backend'";
        self.try_sql("postgres", &wait)
            .unwrap_or_else(|error| panic!("{condition}: {error}\n{}", self.sql("postgres", sessions)));
    }

    /// What the server has logged, the last lines of it.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Ends all sessions and the server, in order.
    pub fn stop_fast(&mut self) {
        self.stop(Signal::INT);
    }

    /// Ends all sessions and the server at once; it recovers when it starts again.
    pub fn stop_immediate(&mut self) {
        self.stop(Signal::QUIT);
    }

    fn stop(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.signal(signal);
            process.wait();
        }
    }

    /// Kills every process of the server, as a power switch would.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts the server again after a stop, with its data, on its port.
    pub fn start_again(&mut self) {
        let mut log = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let port = if self.port == 0 { free_port() } else { self.port };
            let mut command = self.program("postgres");
            command.arg("-D").arg(self.directory.path().join("data")).arg("-p").arg(port.to_string());
            command.arg("-k").arg(self.directory.path());
            for setting in SETTINGS.iter().copied().chain(self.settings.iter().map(String::as_str)) {
                command.args(["-c", setting]);
            }
            // "to accept connections", or "to accept read-only connections".
            match Process::start(command, "database system is ready to accept") {
                Ok(process) => {
                    (self.process, self.port) = (Some(process), port);
                    return;
                }
                Err(why) if why.contains("could not bind") => log = why,
                Err(why) => panic!("PostgreSQL does not start:\n{why}"),
            }
        }
        panic!("PostgreSQL finds no free port:\n{log}");
    }

    /// Stops and starts the server; sessions end.
    pub fn restart(&mut self) {
        self.stop_fast();
        self.start_again();
    }

    /// A standby that every commit of this server waits for from now on.
    #[must_use]
    pub fn standby(&self) -> Self {
        let directory = directory(self.user);
        let data = directory.path().join("data");
        let mut copy = self.program("pg_basebackup");
        copy.arg("-d").arg(format!("postgres://postgres@127.0.0.1:{}/?application_name=standby", self.port));
        copy.args(["-X", "stream", "-c", "fast", "-R", "--no-sync", "-D"]).arg(&data);
        run(&mut copy).unwrap_or_else(|error| panic!("pg_basebackup: {error}"));
        let settings: Vec<_> = self.settings.iter().map(String::as_str).collect();
        let mut standby = Self::stopped(self.bin.clone(), self.user, directory, &settings);
        standby.start_again();
        let process = self.process.as_ref().expect("a primary that runs");
        let since = process.lines();
        self.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'standby'");
        self.sql("postgres", "SELECT pg_reload_conf()");
        assert!(process.has_said_since(since, "is now a synchronous standby"), "{}", process.log());
        standby
    }

    /// Makes a standby a primary that waits for nobody.
    pub fn promote(&self) {
        self.sql("postgres", "SELECT pg_promote()");
    }

    fn program(&self, name: &str) -> Command {
        User::command(self.user, &self.bin.join(name).to_string_lossy())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop_immediate();
        // A server that was killed has left a piece of shared memory behind, of which a system has a few thousand.
        let file =
            std::fs::read_to_string(self.directory.path().join("data/postmaster.pid")).unwrap_or_default();
        if let Some(segment) = file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let _ = Command::new("ipcrm").args(["-m", segment]).output();
        }
    }
}

/// `PgBouncer` in transaction mode: no two transactions of a client need to meet the same session of the server.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    _process: Process,
    _directory: TempDir,
}

impl PgBouncer {
    /// One in front of a cluster, with so many sessions to each database.
    pub fn start(cluster: &Cluster, sessions: usize) -> Self {
        let directory = directory(cluster.user);
        let mut log = String::new();
        for _ in 0..ATTEMPTS_MAX {
            let port = free_port();
            let settings = directory.path().join("pgbouncer.ini");
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {sessions}\nmax_client_conn = 200\n",
                cluster.port
            );
            std::fs::write(&settings, text).unwrap();
            let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
            let program = program.into_iter().find(|path| Path::new(path).exists());
            let program = program.expect("PgBouncer is missing: apt-get install pgbouncer");
            let mut command = User::command(cluster.user, program);
            command.arg(&settings);
            match Process::start(command, "process up") {
                Ok(process) => return Self { port, _process: process, _directory: directory },
                Err(why) => log = why,
            }
        }
        panic!("PgBouncer does not start:\n{log}");
    }

    /// How to reach a database of the cluster through it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

/// Where the programs of PostgreSQL are.
fn binaries() -> PathBuf {
    let asked = std::env::var_os("SEABED_POSTGRES_BIN").map(PathBuf::from);
    if let Some(asked) = asked {
        assert!(
            asked.join("initdb").exists(),
            "SEABED_POSTGRES_BIN: there is no initdb in {}",
            asked.display()
        );
        return asked;
    }
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest =
        debian.map(|entry| entry.path()).max_by_key(|path| version(path)).map(|path| path.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        newest.into_iter().chain(std::env::split_paths(&path)).find(|bin| bin.join("initdb").exists());
    found.expect(
        "PostgreSQL is missing: apt-get install postgresql, or name its programs in SEABED_POSTGRES_BIN",
    )
}

/// A temporary directory that belongs to the server.
fn directory(user: Option<User>) -> TempDir {
    let directory = tempfile::Builder::new().prefix("seabed-postgres-").tempdir().unwrap();
    own(directory.path(), user);
    directory
}

fn own(path: &Path, user: Option<User>) {
    if let Some(User { uid, gid }) = user {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// The files of a cluster that has never run. `initdb` takes a second of processor time, and every test is a process of its own: the
/// first one of them makes the files for all.
fn template(bin: &Path, user: Option<User>) -> PathBuf {
    let version = run(User::command(user, &bin.join("postgres").to_string_lossy()).arg("--version"))
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", bin.display()));
    // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let version = version.split_whitespace().nth(2).unwrap_or_default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tmp");
    std::fs::create_dir_all(&folder).unwrap();
    let template = folder.join(format!("postgres-{version}"));
    let lock = File::create(folder.join("postgres.lock")).unwrap();
    lock.lock().unwrap();
    if !template.exists() {
        let directory = directory(user);
        let data = directory.path().join("data");
        let mut initdb = User::command(user, &bin.join("initdb").to_string_lossy());
        initdb.args(["-U", "postgres", "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-sync", "-D"]);
        run(initdb.arg(&data)).unwrap_or_else(|error| panic!("initdb: {error}"));
        // Whole under its name, or not there.
        let partial = tempfile::tempdir_in(&folder).unwrap().keep();
        copy(&data, &partial, None);
        std::fs::rename(&partial, &template).unwrap();
    }
    template
}

/// A tree of files, for a user.
fn copy(from: &Path, to: &Path, user: Option<User>) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    own(to, user);
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target, user);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            own(&target, user);
        }
    }
}

/// A port that nobody listens on, below those that the system gives to outgoing connections: it stays free for a restart.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let part = TAKEN.fetch_add(1, Ordering::Relaxed);
    let mut rng = Rng::new(u64::from(std::process::id())).fork(u64::from(part));
    loop {
        let port = 10_240 + u16::try_from(rng.below(20_000)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What a program prints.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output();
    let output =
        output.map_err(|error| format!("{} cannot be started: {error}", command.get_program().display()))?;
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
