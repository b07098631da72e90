//! `seabed token`: who may connect from elsewhere.

use std::process::ExitCode;

use axum::http::Method;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::access::{Access, segment};
use crate::cli::Place;
use crate::cli::show::table;
use crate::node::{Failure, Node};
use crate::output;
use crate::tokens::{Scope, Token};

/// What is shown of a token, in this order.
const COLUMNS: [&str; 5] = ["id", "name", "access", "created_unix_s", "revoked_unix_s"];

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed token create phone
  seabed token create dashboard --access read
  seabed token list
  seabed token revoke 0b5a3d7c9c0e4a0d8a2f6f0f1c1d2e3f

Automerge's clients connect to ws://HOST/automerge?token=TOKEN. Without any token the server lets in only programs on its own \
machine; from the first one on, everybody needs one. A token that is revoked ends its connections within seconds.")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; its text is printed once and kept nowhere
    #[command(after_help = "\
Examples:
  seabed token create phone
  seabed token create dashboard --access read")]
    Create {
        /// Whose it is
        name: String,
        /// What it lets its holder do with documents whose id they know
        #[arg(long, value_enum, default_value = "write")]
        access: Scope,
        #[command(flatten)]
        place: Place,
    },
    /// List every token that there ever was
    #[command(after_help = "\
Examples:
  seabed token list")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a token
    #[command(after_help = "\
Examples:
  seabed token revoke 0b5a3d7c9c0e4a0d8a2f6f0f1c1d2e3f")]
    Revoke {
        /// Its id, as `list` shows it
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// What `GET /api/tokens` answers.
#[derive(Debug, Serialize)]
pub(crate) struct All {
    tokens: Vec<Token>,
}

/// What `POST /api/tokens` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Created {
    token: Token,
    /// The text: told once, and kept nowhere.
    text: String,
}

/// What `DELETE /api/tokens/{id}` answers.
#[derive(Debug, Serialize)]
pub(crate) struct Revoked {
    revoked: Token,
}

/// Lists every token.
pub(crate) async fn run(node: &Node) -> Result<All, Failure> {
    let tokens = node.tokens().await?;
    tokens.refresh().await?;
    Ok(All { tokens: tokens.list() })
}

/// Makes a token.
pub(crate) async fn create(node: &Node, name: &str, access: Scope) -> Result<Created, Failure> {
    let (token, text) = node.tokens().await?.create(name, access).await?;
    Ok(Created { token, text })
}

/// Revokes a token.
pub(crate) async fn revoke(node: &Node, id: &str) -> Result<Revoked, Failure> {
    let revoked = node.tokens().await?.revoke(id).await?;
    let missing =
        || Failure::not_found(format!("no token {id} in {}; `seabed token list` lists them", node.url));
    Ok(Revoked { revoked: revoked.ok_or_else(missing)? })
}

pub(crate) fn command(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let (place, method, path) = match &args.command {
        TokenCommand::Create { name, access, place } => {
            let access = match access {
                Scope::Read => "read",
                Scope::Write => "write",
            };
            (place, Method::POST, format!("/api/tokens?name={}&access={access}", segment(name)))
        }
        TokenCommand::List { place } => (place, Method::GET, "/api/tokens".to_owned()),
        TokenCommand::Revoke { id, place } => (place, Method::DELETE, format!("/api/tokens/{}", segment(id))),
    };
    let answer = crate::cli::block_on(async {
        let access = Access::open(&place.url()?).await?;
        let answer = access.ask(method, &path).await;
        access.close().await?;
        answer
    })?;
    if place.json {
        return output::exit(output::json(&answer), output::EXIT_OK);
    }
    let printed = match &args.command {
        TokenCommand::Create { .. } => {
            output::line(answer.get("text").and_then(Value::as_str).unwrap_or_default())
        }
        TokenCommand::List { .. } => table(&answer, "tokens", &COLUMNS),
        TokenCommand::Revoke { id, .. } => output::line(format!("revoked {id}")),
    };
    output::exit(printed, output::EXIT_OK)
}
