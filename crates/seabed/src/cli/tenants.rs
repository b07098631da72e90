//! `seabed tenants`: what is stored, and how much of it.

use std::process::ExitCode;

use clap::Args;
use seabed_kv::KeyRange;
use serde::{Deserialize, Serialize};

use crate::access::Access;
use crate::cli::Place;
use crate::node::{Failure, Node, layer};
use crate::output::{self, EXIT_FAILED, EXIT_OK, Table};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed tenants
  seabed tenants --rows               count the rows too: reads every key
  seabed tenants --json | jq '[.tenants[].data_bytes] | add'

Exit codes: 0 all of them could be read; 1 one could not, and says why; 2 wrong usage, nothing there.")]
pub(crate) struct TenantsArgs {
    /// Count the rows as well, which reads every key
    #[arg(long)]
    rows: bool,
    #[command(flatten)]
    place: Place,
}

/// What `GET /api/tenants` answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tenants {
    /// The store: its directory, absolute, or its URL without secrets.
    store: String,
    tenants: Vec<TenantInfo>,
}

/// A tenant in the list.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TenantInfo {
    id: String,
    /// Whose state it is; null when no layer of this version knows the name.
    layer: Option<String>,
    /// Null unless they were asked for.
    rows: Option<u64>,
    data_bytes: u64,
    log_bytes: u64,
    /// Why it cannot be read; the numbers are zero then.
    error: Option<String>,
}

/// Lists every tenant of the store.
pub(crate) async fn run(node: &Node, count_rows: bool) -> Result<Tenants, Failure> {
    let mut tenants = Vec::new();
    for id in node.tenants(None).await? {
        let mut info = TenantInfo {
            id: id.as_str().to_owned(),
            layer: layer(&id).map(str::to_owned),
            rows: None,
            data_bytes: 0,
            log_bytes: 0,
            error: None,
        };
        let measured = async {
            let tenant = node.visit(&id)?;
            let stats = tenant.stats().await?;
            let rows = if count_rows { Some(rows(&tenant).await?) } else { None };
            Ok((stats, rows))
        };
        // One tenant that cannot be opened must not hide the others.
        match measured.await {
            Ok((stats, rows)) => {
                info.rows = rows;
                info.data_bytes = stats.data_bytes;
                info.log_bytes = stats.log_bytes;
            }
            Err(error) => info.error = Some(crate::node::sentence(error)),
        }
        tenants.push(info);
    }
    Ok(Tenants { store: node.url.to_string(), tenants })
}

async fn rows(tenant: &seabed_kv::Tenant) -> Result<u64, seabed_kv::Error> {
    let mut rows = 0;
    for category in tenant.categories().await? {
        rows += tenant.count(category, &KeyRange::all()).await?;
    }
    Ok(rows)
}

pub(crate) fn command(args: &TenantsArgs) -> anyhow::Result<ExitCode> {
    let answer = Access::ask_once(&args.place.url()?, &format!("/api/tenants?rows={}", args.rows))?;
    let tenants: Tenants = serde_json::from_value(answer.clone())?;
    let all_read = tenants.tenants.iter().all(|tenant| tenant.error.is_none());
    let printed = if args.place.json { output::json(&answer) } else { print(tenants) };
    output::exit(printed, if all_read { EXIT_OK } else { EXIT_FAILED })
}

fn print(answer: Tenants) -> anyhow::Result<()> {
    let mut table = Table::new(&["TENANT", "LAYER", ">ROWS", ">DATA", ">LOG", ""]);
    for tenant in answer.tenants {
        table.row([
            tenant.id,
            tenant.layer.unwrap_or_else(|| "-".to_owned()),
            tenant.rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string()),
            output::size(tenant.data_bytes),
            output::size(tenant.log_bytes),
            tenant.error.unwrap_or_default(),
        ]);
    }
    output::line(format!("store {}", answer.store))?;
    table.print()
}
