//! `seabed inspect`: the rows of a tenant, decoded where the protocol is known.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use axum::http::Method;
use clap::Args;
use seabed_kv::{KeyRange, ScanSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::{Access, segment};
use crate::bytes;
use crate::cli::Place;
use crate::node::{Failure, Node, layer};
use crate::output::{self, Exit, counted};

/// How many rows are shown unless told otherwise.
const LIMIT_DEFAULT: u64 = 100;
/// How much of a payload a line for people shows.
const SHOWN_CHARACTERS_MAX: usize = 200;

#[derive(Debug, Args)]
#[command(after_help = "\
Bytes are given and shown in one notation: text stands for itself, 0x begins hexadecimal digits.

Examples:
  seabed inspect taskchampion-00 --limit 20
  seabed inspect sds --category sds.log --prefix 0x00066368616e2d61 --reverse
  seabed inspect taskchampion-00 --keys-only --json | jq -r '.rows[].key'")]
pub(crate) struct InspectArgs {
    /// The tenant; `seabed tenants` lists them
    tenant: String,
    /// Only this category
    #[arg(short, long, value_name = "BYTES", value_parser = notation)]
    category: Option<String>,
    /// Only keys that begin with this
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["start", "stop"], value_parser = notation)]
    prefix: Option<String>,
    /// Only keys from this one on
    #[arg(long, value_name = "BYTES", value_parser = notation)]
    start: Option<String>,
    /// Only keys before this one
    #[arg(long, value_name = "BYTES", value_parser = notation)]
    stop: Option<String>,
    /// At most this many rows
    #[arg(short = 'n', long, value_name = "N", default_value_t = LIMIT_DEFAULT)]
    limit: u64,
    /// Leave the payloads unread
    #[arg(short, long)]
    keys_only: bool,
    /// From the last key to the first
    #[arg(short, long)]
    reverse: bool,
    #[command(flatten)]
    place: Place,
}

fn notation(text: &str) -> Result<String, String> {
    bytes::parse(text).map(|_| text.to_owned())
}

/// What `GET /api/tenants/{id}` answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TenantDetail {
    id: String,
    layer: Option<String>,
    data_bytes: u64,
    log_bytes: u64,
    /// In ascending order, in the notation of [`bytes`].
    categories: Vec<String>,
}

/// Tells about one tenant.
pub(crate) async fn run(node: &Node, tenant: &str) -> Result<TenantDetail, Failure> {
    let ids = node.tenants(Some(tenant)).await?;
    let id = ids.first().ok_or_else(|| Failure::not_found("no such tenant"))?;
    let open = node.visit(id)?;
    let stats = open.stats().await?;
    let categories = open.categories().await?;
    Ok(TenantDetail {
        id: tenant.to_owned(),
        layer: layer(id).map(str::to_owned),
        data_bytes: stats.data_bytes,
        log_bytes: stats.log_bytes,
        categories: categories.iter().map(|category| bytes::show(category)).collect(),
    })
}

/// What `GET /api/tenants/{id}/rows` understands.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RowsQuery {
    category: String,
    prefix: Option<String>,
    start: Option<String>,
    stop: Option<String>,
    limit: Option<u64>,
    keys_only: bool,
    reverse: bool,
}

/// What `GET /api/tenants/{id}/rows` answers: one page.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rows {
    rows: Vec<RowInfo>,
    /// `start` and `stop` of the next page; null after the last.
    next: Option<NextRows>,
}

/// Where a scan goes on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NextRows {
    start: String,
    stop: String,
}

/// A row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RowInfo {
    category: String,
    key: String,
    /// Null when only keys were asked for.
    payload: Option<String>,
    /// What the protocol says about it; null for rows of no known protocol.
    value: Option<Value>,
}

/// What a layer tells of a row.
type DecodeRow = fn(&[u8], &[u8], &[u8]) -> Option<Value>;

/// Reads one page of rows.
pub(crate) async fn rows(node: &Node, tenant: &str, query: &RowsQuery) -> Result<Rows, Failure> {
    let ids = node.tenants(Some(tenant)).await?;
    let id = ids.first().ok_or_else(|| Failure::not_found("no such tenant"))?;
    let parse = |text: &Option<String>| {
        text.as_deref().map_or_else(|| Ok(Vec::new()), bytes::parse).map_err(Failure::bad_request)
    };
    let range = if query.prefix.is_some() {
        KeyRange::prefix(parse(&query.prefix)?)
    } else {
        KeyRange::new(parse(&query.start)?, parse(&query.stop)?)
    };
    let category = bytes::parse(&query.category).map_err(Failure::bad_request)?;
    let limit = usize::try_from(query.limit.unwrap_or(LIMIT_DEFAULT)).unwrap_or(usize::MAX);
    let mut spec = ScanSpec::new(&category, range).limit(limit);
    spec.reverse = query.reverse;
    spec.keys_only = query.keys_only;
    if limit == 0 {
        return Ok(Rows { rows: Vec::new(), next: None });
    }

    let page = node.visit(id)?.scan_page(spec).await?;
    let decode = match layer(id).filter(|_| !query.keys_only) {
        Some("automerge") => Some(seabed_automerge::decode_row as DecodeRow),
        Some("taskchampion") => Some(seabed_taskchampion::decode_row as DecodeRow),
        Some("sds") => Some(seabed_sds::decode_row as DecodeRow),
        _ => None,
    };
    let rows = page.rows.iter().map(|row| RowInfo {
        category: bytes::show(&category),
        key: bytes::show(row.key.as_bytes()),
        payload: (!query.keys_only).then(|| bytes::show(&row.payload)),
        value: decode.and_then(|decode| decode(&category, row.key.as_bytes(), &row.payload)),
    });
    let next = page.next.map(|next| NextRows {
        start: bytes::show(next.range.start.as_bytes()),
        stop: bytes::show(next.range.stop.as_bytes()),
    });
    Ok(Rows { rows: rows.collect(), next })
}

pub(crate) fn command(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let rows = crate::cli::block_on(async {
        let access = Access::open(&args.place.url()?).await?;
        let rows = read(&access, args).await;
        access.close().await?;
        rows
    })?;
    if args.place.json {
        output::json(&serde_json::json!({ "tenant": args.tenant, "rows": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut category = None;
    for row in &rows {
        if category != Some(&row.category) {
            output::line(format!("[{}]", row.category))?;
            category = Some(&row.category);
        }
        let shown = match (&row.value, &row.payload) {
            (Some(value), _) => serde_json::to_string(value)?,
            (None, Some(payload)) => payload.clone(),
            (None, None) => String::new(),
        };
        output::line(format!("  {}  {}", row.key, shorten(&shown)).trim_end())?;
    }
    if rows.len() as u64 == args.limit {
        output::note(&format!("the first {}; --limit shows more", counted(rows.len() as u64, "row")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Every row that was asked for, page after page, category after category.
async fn read(access: &Access, args: &InspectArgs) -> anyhow::Result<Vec<RowInfo>> {
    let path = format!("/api/tenants/{}", segment(&args.tenant));
    let detail: TenantDetail = serde_json::from_value(access.ask(Method::GET, &path).await?)?;
    let mut categories = match &args.category {
        Some(category) if !has(&detail, category) => {
            return Err(Exit::usage(format!(
                "tenant {} has no category {category}; it has {}",
                args.tenant,
                if detail.categories.is_empty() { "none".to_owned() } else { detail.categories.join(", ") }
            )));
        }
        Some(category) => vec![category.clone()],
        None => detail.categories,
    };
    if args.reverse {
        categories.reverse();
    }
    let mut found: Vec<RowInfo> = Vec::new();
    for category in categories {
        let mut prefix = args.prefix.clone();
        let mut start = args.start.clone();
        let mut stop = args.stop.clone();
        loop {
            let limit = args.limit.saturating_sub(found.len() as u64);
            if limit == 0 {
                return Ok(found);
            }
            let mut query = format!("{path}/rows?category={}&limit={limit}", segment(&category));
            for (name, value) in [("prefix", &prefix), ("start", &start), ("stop", &stop)] {
                if let Some(value) = value {
                    let _ = write!(query, "&{name}={}", segment(value));
                }
            }
            let _ = write!(query, "&keys_only={}&reverse={}", args.keys_only, args.reverse);
            let page: Rows = serde_json::from_value(access.ask(Method::GET, &query).await?)
                .context("the server answered rows of another shape; is it another version?")?;
            found.extend(page.rows);
            let Some(next) = page.next else { break };
            prefix = None;
            start = Some(next.start);
            stop = Some(next.stop);
        }
    }
    Ok(found)
}

/// Whether a tenant has that category, in whichever spelling.
fn has(detail: &TenantDetail, category: &str) -> bool {
    let asked = bytes::parse(category);
    detail.categories.iter().any(|found| bytes::parse(found) == asked)
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARACTERS_MAX {
        return text.to_owned();
    }
    let head: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    format!("{head}… ({} characters)", text.chars().count())
}
