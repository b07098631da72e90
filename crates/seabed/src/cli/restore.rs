//! `seabed restore`: a new store out of a backup, which nobody can open before it was verified whole.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use seabed_kv::ErrorKind;
use seabed_kv::sqlite::Restore;
use serde::Serialize;

use crate::backup::{
    self,
    manifest::{self, Manifest, Missing, NotRead},
};
use crate::cli::verify::{self, Report};
use crate::cli::{Place, block_on};
use crate::output::{self, EXIT_FAILED, EXIT_OK, Exit};
use crate::store_url::StoreUrl;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  seabed restore /backups/tasks --data-dir ./new
  seabed restore /backups/tasks -d ./new && seabed serve -d ./new

The directory must be new or empty. Until everything was copied and verified it cannot be opened; a restore that was \
interrupted is run again, into the same directory. The backup is only read.

Exit codes: 0 restored and sound; 1 failed, or restored with findings, which the backed up store had too; 2 wrong usage, or \
no backup there.")]
pub(crate) struct RestoreArgs {
    /// The directory of the backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Restored {
    backup: String,
    /// When the backup was made.
    created_unix_s: u64,
    /// The new store, verified.
    verified: Report,
    /// Tenants that could not be copied when the backup was made.
    missing: Vec<Missing>,
}

pub(crate) fn command(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let restored = block_on(restore(&args.backup, &args.place.url()?))?;
    let Restored { verified, missing, .. } = &restored;
    let sound = verified.findings == 0 && verified.complete && missing.is_empty();
    let printed = if args.place.json { output::json(&restored) } else { print(&restored) };
    output::exit(printed, if sound { EXIT_OK } else { EXIT_FAILED })
}

async fn restore(backup: &Path, url: &StoreUrl) -> anyhow::Result<Restored> {
    let Some(root) = url.root() else {
        return Err(Exit::usage(format!(
            "a backup is restored into a directory, and {url} is none: restore a PostgreSQL database with pg_restore or from \
             pg_basebackup's files; or restore into a directory and `seabed copy` that into the database"
        )));
    };
    let place = crate::open::absolute(backup).display().to_string();
    let _lock = backup::lock_to_read(backup).map_err(Exit::usage)?;
    let manifest = Manifest::read(backup).map_err(|error| match error {
        NotRead::Absent => Exit::usage(manifest::absent(&place)),
        NotRead::Unsupported(why) => Exit::usage(why),
        NotRead::Damaged(why) => anyhow::anyhow!("the backup in {place} is damaged: {why}"),
        NotRead::Failed(error) => {
            anyhow::Error::new(error).context(format!("cannot read the backup in {place}"))
        }
    })?;
    let begun = Restore::begin(root).map_err(|error| match error.kind() {
        ErrorKind::InvalidArgument => Exit::usage(error.to_string()),
        _ => error.into(),
    })?;
    let progress = output::progress("restoring");
    let root = crate::open::absolute(root);
    let unfinished =
        || format!("nothing was restored; until a restore into {} ends it cannot be opened", root.display());
    let mut copies = Vec::new();
    for (id, entry) in manifest.entries() {
        progress.set_message(format!("restoring {} of {}: {id}", copies.len() + 1, manifest.tenants.len()));
        let file = begun.add(&id, &backup.join(&entry.file)).with_context(unfinished)?;
        copies.push((id, entry, file));
    }
    progress.set_message("checking");
    let tenants = verify::verify_copies(&root, &manifest, copies).await;
    let unsound = tenants.iter().find_map(|tenant| tenant.alteration().or_else(|| tenant.unchecked()));
    if let Some((id, why)) = unsound {
        anyhow::bail!("tenant {id}: {why}; {}", unfinished());
    }
    begun.finish()?;
    progress.finish_and_clear();
    let verified = Report::new(root.display().to_string(), None, tenants);
    Ok(Restored {
        backup: place,
        created_unix_s: manifest.created_unix_s,
        verified,
        missing: manifest.missing,
    })
}

fn print(restored: &Restored) -> anyhow::Result<()> {
    output::line(format!("backup {}", restored.backup))?;
    restored.verified.print()?;
    for missing in &restored.missing {
        output::line(format!("tenant {} was not in the backup: {}", missing.id, missing.error))?;
    }
    output::line("restored")
}
