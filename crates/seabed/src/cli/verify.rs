//! `seabed verify`: checks everything that can be checked, and counts what it examined.

use std::process::ExitCode;

use clap::Args;
use seabed_kv::{ErrorKind, TenantId};
use serde::{Deserialize, Serialize};

use crate::cli::Place;
use crate::node::{Failure, Node, layer, sentence};
use crate::open::{Access, segment};
use crate::output::{self, EXIT_FAILED, EXIT_OK, EXIT_USAGE, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed verify
  seabed verify taskchampion-00
  seabed verify --json | jq .examined

Exit codes: 0 everything was examined and is sound; 1 findings; 2 something could not be checked.")]
pub(crate) struct VerifyArgs {
    /// Only this tenant; `seabed tenants` lists them
    tenant: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// What `GET /api/verify` answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The directory of the store, absolute.
    store: String,
    examined: Examined,
    /// How many findings there are in all.
    findings: u64,
    /// Whether everything that was to be examined was.
    complete: bool,
    tenants: Vec<TenantVerified>,
}

/// How much was looked at, so that "no findings" means something.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Examined {
    tenants: u64,
    rows: u64,
    bytes: u64,
    clients: u64,
    versions: u64,
}

/// What was found in one tenant.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TenantVerified {
    id: String,
    layer: Option<String>,
    rows: u64,
    bytes: u64,
    clients: u64,
    versions: u64,
    /// What is wrong, a sentence each.
    findings: Vec<String>,
    /// Why it could not be examined to the end; null when it could.
    unchecked: Option<String>,
}

/// Checks every tenant, or one.
pub(crate) async fn run(node: &Node, only: Option<&str>) -> Result<Report, Failure> {
    let mut examined = Examined::default();
    let mut tenants = Vec::new();
    for id in node.tenants(only).await? {
        let verified = verify_tenant(node, &id).await;
        examined.tenants += u64::from(verified.unchecked.is_none());
        examined.rows += verified.rows;
        examined.bytes += verified.bytes;
        examined.clients += verified.clients;
        examined.versions += verified.versions;
        tenants.push(verified);
    }
    Ok(Report {
        store: node.root.display().to_string(),
        examined,
        findings: tenants.iter().map(|tenant| tenant.findings.len() as u64).sum(),
        complete: tenants.iter().all(|tenant| tenant.unchecked.is_none()),
        tenants,
    })
}

async fn verify_tenant(node: &Node, id: &TenantId) -> TenantVerified {
    let mut verified = TenantVerified {
        id: id.as_str().to_owned(),
        layer: layer(id).map(str::to_owned),
        rows: 0,
        bytes: 0,
        clients: 0,
        versions: 0,
        findings: Vec::new(),
        unchecked: None,
    };
    if let Err(error) = fill(node, id, &mut verified).await {
        match error.kind() {
            // Damage that keeps a tenant from being read is the finding.
            ErrorKind::Corrupt => verified.findings.push(sentence(error)),
            _ => verified.unchecked = Some(sentence(error)),
        }
    }
    verified
}

async fn fill(node: &Node, id: &TenantId, verified: &mut TenantVerified) -> Result<(), seabed_kv::Error> {
    let tenant = node.visit(id)?;
    let report = tenant.verify().await?;
    verified.rows = report.rows;
    verified.bytes = report.bytes;
    verified.findings = report.findings;
    if seabed_taskchampion::is_ours(id.as_str()) {
        let report = seabed_taskchampion::verify_in(&node.store, &tenant).await?;
        verified.clients = report.clients;
        verified.versions = report.versions;
        verified.findings.extend(report.findings);
    }
    Ok(())
}

pub(crate) fn command(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let path = args
        .tenant
        .as_ref()
        .map_or_else(|| "/api/verify".to_owned(), |tenant| format!("/api/verify?tenant={}", segment(tenant)));
    let progress = output::progress("checking");
    let answer = Access::ask_once(&args.place.data_dir, &path);
    progress.finish_and_clear();
    // Exit code 1 says that there are findings, so whatever kept us from looking is 2.
    let answer =
        answer.map_err(|error| Exit::usage(format!("could not check: {}", output::sentence(&error))))?;
    let report: Report = serde_json::from_value(answer.clone())
        .map_err(|error| Exit::usage(format!("the server answered something else than a report: {error}")))?;
    let code = match (report.findings, report.complete) {
        (0, true) => EXIT_OK,
        (0, false) => EXIT_USAGE,
        _ => EXIT_FAILED,
    };
    output::exit(if args.place.json { output::json(&answer) } else { print(&report) }, code)
}

fn print(report: &Report) -> anyhow::Result<()> {
    output::line(format!("store {}", report.store))?;
    for tenant in &report.tenants {
        let verdict = match (&tenant.unchecked, tenant.findings.len()) {
            (None, 0) => "sound".to_owned(),
            (None, findings) => format!("{findings} findings"),
            (Some(why), _) => format!("could not be checked: {why}"),
        };
        output::line(format!("{}: {verdict}", tenant.id))?;
        for finding in &tenant.findings {
            output::line(format!("  {finding}"))?;
        }
    }
    let Examined { tenants, rows, bytes, clients, versions } = &report.examined;
    output::line(format!(
        "examined {tenants} tenants, {rows} rows, {bytes} bytes, {clients} clients, {versions} versions: {}",
        match (report.findings, report.complete) {
            (0, true) => "sound".to_owned(),
            (0, false) => "no findings, but not everything could be checked".to_owned(),
            (findings, _) => format!("{findings} findings"),
        }
    ))
}
