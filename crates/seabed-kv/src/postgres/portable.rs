//! A group as plain statements in one serializable transaction: dialect `portable`.

use super::Shared;
use super::queue::{Request, Verdict};
use crate::{Error, ErrorKind, Result, TenantId};

#[expect(clippy::unused_async, reason = "it will wait for the server")]
pub(super) async fn commit(_: &Shared, _: &TenantId, _: &[Request]) -> Result<Vec<Verdict>> {
    Err(Error::new(ErrorKind::Unsupported, "dialect portable is not written yet"))
}
