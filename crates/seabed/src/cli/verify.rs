//! `seabed verify`: checks everything that can be checked, and counts what it examined.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use seabed_kv::{ErrorKind, Store, Tenant, TenantId};
use serde::{Deserialize, Serialize};

use crate::access::{Access, segment};
use crate::backup::{
    self,
    manifest::{self, Entry, Manifest, NotRead},
};
use crate::cli::{Place, block_on};
use crate::node::{Failure, Node, layer, sentence};
use crate::output::{self, EXIT_FAILED, EXIT_OK, EXIT_USAGE, Exit, counted};
use crate::own;
use crate::store_url::StoreUrl;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed verify
  seabed verify taskchampion-00
  seabed verify --json | jq .examined
  seabed verify --backup /backups/tasks

Exit codes: 0 everything was examined and is sound; 1 findings; 2 something could not be checked.")]
pub(crate) struct VerifyArgs {
    /// Only this tenant; `seabed tenants` lists them
    tenant: Option<String>,
    /// Check this backup instead of a store: every hash, and all that is checked of a store
    #[arg(long, value_name = "DIR")]
    backup: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// What `GET /api/verify` answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The store: its directory, absolute, or its URL without secrets; that of the backup, when one is examined.
    store: String,
    examined: Examined,
    /// How many findings there are in all.
    pub(crate) findings: u64,
    /// Whether everything that was to be examined was.
    pub(crate) complete: bool,
    /// Of a backup, what is there beside its tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    backup: Option<BackupVerified>,
    tenants: Vec<TenantVerified>,
}

/// What was found in a backup's directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct BackupVerified {
    /// When it was made, and by what; null when its manifest does not tell.
    created_unix_s: Option<u64>,
    writer: Option<String>,
    /// What is wrong with the directory, a sentence each.
    findings: Vec<String>,
}

/// How much was looked at, so that "no findings" means something.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Examined {
    tenants: u64,
    rows: u64,
    bytes: u64,
    clients: u64,
    versions: u64,
    /// Of SDS, and the messages in their logs.
    channels: u64,
    messages: u64,
    /// Of Automerge, and their changes.
    documents: u64,
    changes: u64,
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
    channels: u64,
    messages: u64,
    documents: u64,
    changes: u64,
    /// What is wrong, a sentence each.
    findings: Vec<String>,
    /// Why it could not be examined to the end; null when it could.
    unchecked: Option<String>,
    /// Whether it is a copy, and not the one that was written.
    #[serde(skip)]
    altered: bool,
}

/// Checks every tenant, or one.
pub(crate) async fn run(node: &Node, only: Option<&str>) -> Result<Report, Failure> {
    let mut missing = own::missing_shards(&node.store).await.unwrap_or_else(|error| {
        // The tenant that remembers them is examined below, and named.
        tracing::warn!(%error, "which shards there must be cannot be read");
        Vec::new()
    });
    missing.retain(|(id, _)| only.is_none_or(|only| id.as_str() == only));
    let there = if only.is_some() && !missing.is_empty() { Vec::new() } else { node.tenants(only).await? };
    let mut tenants = verify_tenants(node, there).await;
    for (id, why) in missing {
        tenants.push(TenantVerified { findings: vec![sentence(why)], ..TenantVerified::new(&id) });
    }
    tenants.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(Report::new(node.url.to_string(), None, tenants))
}

/// Checks a backup: that it is what was written, and all that is checked of a store.
pub(crate) async fn run_backup(directory: &Path, only: Option<&str>) -> anyhow::Result<Report> {
    let path = crate::open::absolute(directory).display().to_string();
    let mut about = BackupVerified::default();
    let _lock = backup::lock_to_read(directory).map_err(Exit::usage)?;
    let manifest = match Manifest::read(directory) {
        Ok(manifest) => manifest,
        Err(NotRead::Absent) => return Err(Exit::usage(manifest::absent(&path))),
        Err(NotRead::Damaged(why)) => {
            about.findings.push(why);
            return Ok(Report::new(path, Some(about), Vec::new()));
        }
        Err(NotRead::Unsupported(why)) => return Err(Exit::usage(why)),
        Err(NotRead::Failed(error)) => return Err(error.into()),
    };
    about.created_unix_s = Some(manifest.created_unix_s);
    about.writer = Some(manifest.writer.clone());
    let mut copies: Vec<_> = manifest.entries().collect();
    if let Some(only) = only {
        copies.retain(|(id, _)| id.as_str() == only);
        if copies.is_empty() {
            return Err(Exit::usage(format!("the backup in {path} has no tenant '{only}'")));
        }
    } else {
        about.findings.extend(backup::extras(directory, &manifest)?.into_iter().map(|name| {
            let left = manifest.missing.iter().find(|left| manifest::is_copy_of(&left.id, &name));
            let made = match left {
                Some(left) => format!("; it may be all that is left of tenant {}", left.id),
                None if backup::is_ours(&name) => "; a backup that did not end may have left it".to_owned(),
                None => String::new(),
            };
            format!("{name} is not in the manifest{made}")
        }));
        about.findings.extend(
            manifest.kept.iter().filter_map(|kept| differs(kept, &manifest, &directory.join(&kept.file))),
        );
        about.findings.extend(manifest.missing.iter().map(|missing| {
            format!(
                "tenant {} is not in the backup, because it could not be copied: {}",
                missing.id, missing.error
            )
        }));
    }
    let copies = copies.into_iter().map(|(id, entry)| (id, entry, directory.join(&entry.file)));
    let tenants = verify_copies(directory, &manifest, copies.collect()).await;
    Ok(Report::new(path, Some(about), tenants))
}

/// Checks copies against what the manifest says of them; those that are what was written, as a store is checked.
pub(crate) async fn verify_copies(
    directory: &Path,
    manifest: &Manifest,
    copies: Vec<(TenantId, &Entry, PathBuf)>,
) -> Vec<TenantVerified> {
    let (mut sound, mut tenants) = (Vec::new(), Vec::new());
    for (id, entry, file) in copies {
        match differs(entry, manifest, &file) {
            Some(finding) => tenants.push(TenantVerified {
                findings: vec![finding],
                altered: true,
                ..TenantVerified::new(&id)
            }),
            None => sound.push((id, file)),
        }
    }
    let ids = sound.iter().map(|(id, _)| id.clone()).collect();
    let node = Node::new(Store::sqlite_files(sound), StoreUrl::Sqlite(directory.to_owned()));
    for mut verified in verify_tenants(&node, ids).await {
        let entry = manifest.tenants.iter().find(|entry| entry.id == verified.id);
        if let Some(entry) = entry
            && verified.unchecked.is_none()
            && verified.findings.is_empty()
            && verified.rows != entry.rows
        {
            verified.findings.push(format!("has {} rows, the manifest says {}", verified.rows, entry.rows));
            verified.altered = true;
        }
        tenants.push(verified);
    }
    tenants.sort_by(|one, other| one.id.cmp(&other.id));
    tenants
}

/// How a copy is not what was written; `None` when it is.
fn differs(entry: &Entry, manifest: &Manifest, file: &Path) -> Option<String> {
    let name = &entry.file;
    let (hash, bytes) = match backup::hash_file(file) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Some(format!("{name} is missing"));
        }
        Err(error) => return Some(format!("{name} cannot be read: {error}")),
    };
    if bytes != entry.bytes {
        return Some(format!("{name} has {bytes} bytes, it was written with {}", entry.bytes));
    }
    if hash == entry.blake3 {
        return None;
    }
    Some(match manifest.tenants.iter().find(|other| other.blake3 == hash) {
        Some(other) => format!("{name} is the copy of another tenant, {}", other.id),
        None => format!("{name} is not what was written: its hash is {hash}, it was {}", entry.blake3),
    })
}

async fn verify_tenants(node: &Node, ids: Vec<TenantId>) -> Vec<TenantVerified> {
    let mut tenants = Vec::new();
    for id in ids {
        tenants.push(verify_tenant(node, &id).await);
    }
    tenants
}

impl Report {
    pub(crate) fn new(store: String, backup: Option<BackupVerified>, tenants: Vec<TenantVerified>) -> Self {
        let mut examined = Examined::default();
        for verified in &tenants {
            examined.tenants += u64::from(verified.unchecked.is_none());
            examined.rows += verified.rows;
            examined.bytes += verified.bytes;
            examined.clients += verified.clients;
            examined.versions += verified.versions;
            examined.channels += verified.channels;
            examined.messages += verified.messages;
            examined.documents += verified.documents;
            examined.changes += verified.changes;
        }
        let of_tenants: usize = tenants.iter().map(|tenant| tenant.findings.len()).sum();
        let of_backup = backup.as_ref().map_or(0, |backup| backup.findings.len());
        Self {
            store,
            examined,
            findings: (of_tenants + of_backup) as u64,
            complete: tenants.iter().all(|tenant| tenant.unchecked.is_none()),
            backup,
            tenants,
        }
    }
}

impl TenantVerified {
    fn new(id: &TenantId) -> Self {
        Self {
            id: id.as_str().to_owned(),
            layer: layer(id).map(str::to_owned),
            rows: 0,
            bytes: 0,
            clients: 0,
            versions: 0,
            channels: 0,
            messages: 0,
            documents: 0,
            changes: 0,
            findings: Vec::new(),
            unchecked: None,
            altered: false,
        }
    }

    /// Its id and what is wrong, when it is not the copy that was written.
    pub(crate) fn alteration(&self) -> Option<(&str, &str)> {
        self.altered.then(|| (self.id.as_str(), self.findings.first().map_or("", String::as_str)))
    }

    /// Its id and why it could not be examined to its end, if it could not.
    pub(crate) fn unchecked(&self) -> Option<(&str, &str)> {
        Some((&self.id, self.unchecked.as_ref()?))
    }
}

async fn verify_tenant(node: &Node, id: &TenantId) -> TenantVerified {
    let mut verified = TenantVerified::new(id);
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
    fill_of_layer(Some(&node.store), &tenant, verified).await
}

/// What its layer finds wrong with a copy of a tenant that is looked at alone.
pub(crate) async fn of_layer(copy: &Tenant) -> Result<Vec<String>, seabed_kv::Error> {
    let mut verified = TenantVerified::new(copy.id());
    match fill_of_layer(None, copy, &mut verified).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => verified.findings.push(sentence(error)),
        filled => filled?,
    }
    Ok(verified.findings)
}

/// What the layer of a tenant says of it; with the store that it is in, also of what its other tenants must be.
async fn fill_of_layer(
    store: Option<&Store>,
    tenant: &Tenant,
    verified: &mut TenantVerified,
) -> Result<(), seabed_kv::Error> {
    let id = tenant.id();
    if id.as_str() == own::TENANT {
        verified.findings.extend(own::verify(tenant).await?);
    }
    if seabed_taskchampion::is_ours(id.as_str()) {
        let report = match store {
            Some(store) => seabed_taskchampion::verify_in(store, tenant).await?,
            None => seabed_taskchampion::verify(tenant).await?,
        };
        verified.clients = report.clients;
        verified.versions = report.versions;
        verified.findings.extend(report.findings);
    }
    if id.as_str() == seabed_sds::TENANT {
        let report = seabed_sds::verify(tenant).await?;
        verified.channels = report.channels;
        verified.messages = report.messages;
        verified.findings.extend(report.findings);
    }
    if seabed_automerge::is_ours(id.as_str()) {
        let report = match store {
            Some(store) => seabed_automerge::verify_in(store, tenant).await?,
            None => seabed_automerge::verify(tenant).await?,
        };
        verified.documents = report.documents;
        verified.changes = report.changes;
        verified.findings.extend(report.findings);
    }
    Ok(())
}

pub(crate) fn command(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let progress = output::progress("checking");
    let answer = if let Some(directory) = &args.backup {
        block_on(async { Ok(serde_json::to_value(run_backup(directory, args.tenant.as_deref()).await?)?) })
    } else {
        let path = args.tenant.as_ref().map_or_else(
            || "/api/verify".to_owned(),
            |tenant| format!("/api/verify?tenant={}", segment(tenant)),
        );
        Access::ask_once(&args.place.url()?, &path)
    };
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
    output::exit(if args.place.json { output::json(&answer) } else { report.print() }, code)
}

impl Report {
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        print(self)
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    output::line(format!("{} {}", if report.backup.is_some() { "backup" } else { "store" }, report.store))?;
    for finding in report.backup.iter().flat_map(|backup| &backup.findings) {
        output::line(format!("  {finding}"))?;
    }
    for tenant in &report.tenants {
        let verdict = match (&tenant.unchecked, tenant.findings.len()) {
            (None, 0) => "sound".to_owned(),
            (None, findings) => counted(findings as u64, "finding"),
            (Some(why), _) => format!("could not be checked: {why}"),
        };
        output::line(format!("{}: {verdict}", tenant.id))?;
        for finding in &tenant.findings {
            output::line(format!("  {finding}"))?;
        }
    }
    let Examined { tenants, rows, bytes, clients, versions, channels, messages, documents, changes } =
        report.examined;
    let mut counts = [(tenants, "tenant"), (rows, "row"), (bytes, "byte")]
        .map(|(count, one)| counted(count, one))
        .join(", ");
    // A protocol that nobody uses here is not spoken of.
    for (outer, inner, names) in [
        (clients, versions, ("client", "version")),
        (channels, messages, ("channel", "message")),
        (documents, changes, ("document", "change")),
    ] {
        if outer > 0 {
            let _ = write!(counts, ", {}, {}", counted(outer, names.0), counted(inner, names.1));
        }
    }
    output::line(format!(
        "examined {counts}: {}",
        match (report.findings, report.complete) {
            (0, true) => "sound".to_owned(),
            (0, false) => "no findings, but not everything could be checked".to_owned(),
            (findings, _) => counted(findings, "finding"),
        }
    ))
}
