//! Where the server is: an address as text.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use std::time::Duration;

use super::Dialect;
use crate::limits::POSTGRES_ANSWER_MS_MAX;
use crate::{Error, ErrorKind, Result};

/// How long one attempt to connect takes at most.
const CONNECT_MS_MAX: u64 = 5_000;

/// What an address says.
pub(super) struct Address {
    pub(super) dialect: Dialect,
    pub(super) config: Config,
    pub(super) tls: Option<MakeRustlsConnect>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| malformed("it has no scheme"))?;
        let dialect = match scheme {
            "postgres" | "postgresql" => Dialect::Postgres,
            "postgres+portable" | "postgresql+portable" => Dialect::Portable,
            _ => return Err(malformed("its scheme is another one")),
        };
        // What libpq calls that is what encryption means here: the certificate and its name are always verified.
        let rest = rest.replace("sslmode=verify-full", "sslmode=require");
        // Never with the text itself: it may hold a password.
        let mut config: Config =
            format!("postgres://{rest}").parse().map_err(|error: tokio_postgres::Error| {
                malformed(
                    &std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
                )
            })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(malformed("it names no host"));
        }
        if config.get_application_name().is_none() {
            config.application_name("seabed");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_millis(CONNECT_MS_MAX));
        }
        // What is sent into a network that has gone is not waited for longer than an answer.
        config.tcp_user_timeout(Duration::from_millis(POSTGRES_ANSWER_MS_MAX));
        config.keepalives_idle(Duration::from_millis(POSTGRES_ANSWER_MS_MAX));
        // A standby answers reads with what was true some time ago.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        // Not in a user's name or password.
        let asked = rest.rsplit_once('?').is_some_and(|(_, parameters)| parameters.contains("sslmode="));
        if !asked {
            config.ssl_mode(if is_local(&config) { SslMode::Disable } else { SslMode::Require });
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls()?),
        };
        Ok(Self { dialect, config, tls })
    }
}

/// Whether what is sent stays on this machine.
fn is_local(config: &Config) -> bool {
    config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
        && config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => {
                name == "localhost"
                    || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
            }
            Host::Unix(_) => true,
        })
}

/// TLS with the certificates that this system trusts, or those of `SSL_CERT_FILE`.
fn tls() -> Result<MakeRustlsConnect> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate that this system trusts cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config
        .map_err(|error| Error::new(ErrorKind::Unsupported, "TLS cannot be set up").with_source(error))?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn malformed(why: &str) -> Error {
    Error::invalid(format!(
        "the address of PostgreSQL must be postgres://USER:PASSWORD@HOST:PORT/DATABASE, or postgres+portable://.. for what is not \
         PostgreSQL itself: {why}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_chooses_the_dialect() {
        for (url, dialect) in [
            ("postgres://u@127.0.0.1/d", Dialect::Postgres),
            ("postgresql://u@localhost:1/d", Dialect::Postgres),
            ("postgres+portable://u@127.0.0.1/d", Dialect::Portable),
        ] {
            assert_eq!(Address::parse(url).unwrap().dialect, dialect, "{url}");
        }
        for url in ["", "mysql://u@h/d", "postgres:u@h/d", "postgres:///d", "postgres://u@h:port/d"] {
            let error = Address::parse(url).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
        }
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_told_otherwise() {
        let mode = |url: &str| Address::parse(url).unwrap().config.get_ssl_mode();
        assert_eq!(mode("postgres://u@db.example.org/d"), SslMode::Require);
        assert_eq!(mode("postgres://u@127.0.0.1,db.example.org/d"), SslMode::Require);
        assert_eq!(mode("postgres://u@localhost/d"), SslMode::Disable);
        assert_eq!(mode("postgres://u@%2Frun%2Fpostgresql/d"), SslMode::Disable);
        assert_eq!(mode("postgres://u@db.example.org/d?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://u@127.0.0.1/d?sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgres://u@127.0.0.1/d?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://u:xsslmode=y@db.example.org/d"), SslMode::Require);
    }

    #[test]
    fn an_error_never_shows_the_password() {
        let error = Address::parse("postgres://u:secret@h:port/d").err().unwrap();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
