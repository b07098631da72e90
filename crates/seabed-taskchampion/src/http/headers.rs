//! What request headers say.

use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::Refusal;

const CLIENT_ID: HeaderName = HeaderName::from_static("x-client-id");

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

/// The client id, in any spelling that the `uuid` crate reads: phone applications send `urn:uuid:`.
pub(super) fn client_id(headers: &HeaderMap) -> Option<Uuid> {
    Uuid::parse_str(text(headers, &CLIENT_ID)?).ok()
}

/// Whether the body is of that type; parameters and case do not matter (ours: case matters to the original).
pub(super) fn expect_media_type(headers: &HeaderMap, expected: &str) -> Result<(), Refusal> {
    let found = text(headers, &CONTENT_TYPE).unwrap_or("");
    let essence = found.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case(expected) {
        Ok(())
    } else {
        Err(Refusal::bad_request("Bad content-type"))
    }
}

/// How the body is encoded; `None` for a way that is not decoded here.
pub(super) fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let mut found = headers.get_all(CONTENT_ENCODING).iter();
    let (first, more) = (found.next(), found.next());
    let Some(first) = first else { return Some(Encoding::Identity) };
    let name = first.to_str().ok().filter(|_| more.is_none())?.trim();
    if name.is_empty() || name.eq_ignore_ascii_case("identity") {
        Some(Encoding::Identity)
    } else if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
        Some(Encoding::Gzip)
    } else {
        None
    }
}

/// How long the body is, where the request says so.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_LENGTH)?.parse().ok()
}

/// Whether the client waits for a word before it sends the body.
pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    text(headers, &EXPECT).is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Reads `data` as the value of each header that is read: nothing may panic.
#[doc(hidden)]
pub fn fuzz_headers(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    for name in [CLIENT_ID, CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT] {
        headers.insert(name, value.clone());
    }
    if let Some(client) = client_id(&headers) {
        assert_eq!(
            Uuid::parse_str(&client.to_string()),
            Ok(client),
            "an id did not survive its plain spelling"
        );
    }
    let _ = expect_media_type(&headers, super::SNAPSHOT);
    let _ = (encoding(&headers), content_length(&headers), expects_continue(&headers));
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_bytes_do_no_harm(data: Vec<u8>) {
            fuzz_headers(&data);
        }
    }
}
