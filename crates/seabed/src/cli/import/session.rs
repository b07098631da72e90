//! A session with somebody else's PostgreSQL database.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::output::Exit;

/// How long connecting takes at most.
const CONNECT_MS_MAX: u64 = 10_000;

/// Connects. What leaves this machine is encrypted unless the URL says `sslmode=disable`, or prefers nothing.
///
/// # Errors
/// Exit code 2 for a URL that does not read; why there is no connection. Never with the URL, which may hold a password.
pub(super) async fn open(url: &str) -> anyhow::Result<Client> {
    // What libpq calls that is what encryption means here, as for a store: the certificate and its name are always verified.
    let read = url.replace("sslmode=verify-full", "sslmode=require").parse();
    let mut config: Config = read.map_err(|error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        Exit::usage(format!("the URL of the original's database does not read: {cause}"))
    })?;
    config.application_name("seabed import").connect_timeout(Duration::from_millis(CONNECT_MS_MAX));
    // Not in a user's name or password.
    let asked = url.rsplit_once('?').is_some_and(|(_, parameters)| parameters.contains("sslmode="));
    if !asked {
        config.ssl_mode(if is_local(&config) { SslMode::Disable } else { SslMode::Require });
    }
    let failed = "cannot connect to the original's database";
    if config.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = config.connect(NoTls).await.context(failed)?;
        // Ends when the client is dropped; what goes wrong shows in its answers.
        tokio::spawn(connection);
        return Ok(client);
    }
    let (client, connection) = config.connect(tls()?).await.context(failed)?;
    tokio::spawn(connection);
    Ok(client)
}

/// Whether what is sent stays on this machine.
fn is_local(config: &Config) -> bool {
    config.get_hostaddrs().iter().all(IpAddr::is_loopback)
        && config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => {
                name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
            }
            Host::Unix(_) => true,
        })
}

/// TLS with the certificates that this system trusts, or those of `SSL_CERT_FILE`.
fn tls() -> anyhow::Result<MakeRustlsConnect> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| anyhow!("TLS cannot be set up: {error}"))?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
}
