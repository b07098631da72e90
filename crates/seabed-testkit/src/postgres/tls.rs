//! What a server needs for TLS: an authority made for this one, its certificate for `localhost`, and a rule that lets the role `seabed` in
//! with encryption alone.

use std::path::Path;
use std::process::Command;

use super::{own, run};
use crate::process::User;

const AUTHORITY: &str = "authority.pem";
/// The tests' own sessions are plain.
const RULES: &str =
    "local all all trust\nhostssl all all 127.0.0.1/32 trust\nhostnossl all postgres 127.0.0.1/32 trust\n";

/// Writes everything into the directory; answers the settings of the server.
pub(super) fn prepare(directory: &Path, user: Option<User>) -> Vec<String> {
    let file = |name: &str| directory.join(name);
    let openssl = |subject: &str, key: &str, certificate: &str, more: &[&str]| {
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]);
        command.args(["-subj", subject]).args(more);
        command.arg("-keyout").arg(file(key)).arg("-out").arg(file(certificate)).current_dir(directory);
        run(&mut command).unwrap_or_else(|error| panic!("openssl: {error}"));
    };
    openssl("/CN=an authority", "authority.key", AUTHORITY, &[]);
    let leaf = ["-CA", AUTHORITY, "-CAkey", "authority.key", "-addext", "subjectAltName=DNS:localhost"];
    let leaf = [&leaf[..], &["-addext", "basicConstraints=critical,CA:FALSE"]].concat();
    openssl("/CN=localhost", "server.key", "server.pem", &leaf);
    std::fs::write(file("rules.conf"), RULES).unwrap();
    for name in ["server.key", "server.pem", "rules.conf"] {
        own(&file(name), user);
    }
    let setting = |setting: &str, name: &str| format!("{setting}={}", file(name).display());
    vec![
        "ssl=on".to_owned(),
        setting("ssl_cert_file", "server.pem"),
        setting("ssl_key_file", "server.key"),
        setting("hba_file", "rules.conf"),
    ]
}

/// The file that a client names to trust the server.
pub(super) fn authority(directory: &Path) -> std::path::PathBuf {
    directory.join(AUTHORITY)
}
