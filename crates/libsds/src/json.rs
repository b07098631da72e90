//! JSON as nim-sds writes it: ids are bytes, and go as they are, also those that are not UTF-8.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use seabed_sds::core::HistoryEntry;

use crate::text::Text;

/// An object that grows field by field, in the order in which they are added.
pub(crate) struct Object(Vec<u8>);

impl Object {
    pub(crate) fn new() -> Self {
        Self(b"{".to_vec())
    }

    /// The object, written.
    pub(crate) fn end(mut self) -> Text {
        self.0.push(b'}');
        self.0.into()
    }

    pub(crate) fn text(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.with(name, |out| string(out, value.as_ref()))
    }

    pub(crate) fn number(self, name: &str, value: u64) -> Self {
        self.with(name, |out| out.extend(value.to_string().bytes()))
    }

    pub(crate) fn flag(self, name: &str, value: bool) -> Self {
        self.with(name, |out| out.extend(value.to_string().bytes()))
    }

    /// Bytes in base64, with padding.
    pub(crate) fn base64(self, name: &str, bytes: &[u8]) -> Self {
        self.text(name, STANDARD.encode(bytes))
    }

    /// Bytes as an array of numbers.
    pub(crate) fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        self.with(name, |out| {
            out.push(b'[');
            decimals(out, bytes);
            out.push(b']');
        })
    }

    /// Ids as an array.
    pub(crate) fn texts<T: AsRef<[u8]>>(self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        self.with(name, |out| array(out, values, |out, value| string(out, value.as_ref())))
    }

    /// What is missing, with what helps to fetch it; `""` when nothing is known.
    pub(crate) fn entries(self, name: &str, entries: &[HistoryEntry]) -> Self {
        self.with(name, |out| {
            array(out, entries, |out, entry| {
                let hint = entry.retrieval_hint.as_deref().unwrap_or_default();
                let entry = Self::new().text("messageId", entry.message_id.as_bytes());
                out.extend(entry.base64("retrievalHint", hint).0);
                out.push(b'}');
            });
        })
    }

    fn with(mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) -> Self {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        string(&mut self.0, name.as_bytes());
        self.0.push(b':');
        value(&mut self.0);
        self
    }
}

/// Ids as an array.
pub(crate) fn ids<T: AsRef<[u8]>>(values: impl IntoIterator<Item = T>) -> Text {
    let mut out = Vec::new();
    array(&mut out, values, |out, value| string(out, value.as_ref()));
    out.into()
}

/// Bytes as decimal numbers with commas between.
pub(crate) fn decimal_list(bytes: &[u8]) -> Text {
    let mut out = Vec::with_capacity(bytes.len() * 4);
    decimals(&mut out, bytes);
    out.into()
}

fn array<T>(out: &mut Vec<u8>, values: impl IntoIterator<Item = T>, mut value: impl FnMut(&mut Vec<u8>, T)) {
    out.push(b'[');
    for (number, one) in values.into_iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        value(out, one);
    }
    out.push(b']');
}

fn decimals(out: &mut Vec<u8>, bytes: &[u8]) {
    for (number, byte) in bytes.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        if *byte >= 100 {
            out.push(b'0' + byte / 100);
        }
        if *byte >= 10 {
            out.push(b'0' + byte / 10 % 10);
        }
        out.push(b'0' + byte % 10);
    }
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for byte in bytes {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0x08 => out.extend(b"\\b"),
            0x0c => out.extend(b"\\f"),
            0..=0x1f => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_a_decimal_number() {
        let all: Vec<u8> = (0..=255).collect();
        let expected = all.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
        assert_eq!(decimal_list(&all).bytes(), expected.as_bytes());
        assert_eq!(decimal_list(b"").bytes(), b"");
    }

    #[test]
    fn an_object_reads_back() {
        let entry = HistoryEntry {
            message_id: "m\"1".into(),
            retrieval_hint: Some(b"hi".as_slice().into()),
            sender_id: None,
        };
        let bare = HistoryEntry { message_id: "m2".into(), ..HistoryEntry::default() };
        let object = Object::new()
            .bytes("message", b"\x00\xff")
            .text("channelId", "c")
            .entries("missingDeps", &[entry, bare])
            .number("count", 7)
            .flag("gap", true)
            .texts("ids", ["a", "b"])
            .end();
        let expected = r#"{"message":[0,255],"channelId":"c","missingDeps":[{"messageId":"m\"1","retrievalHint":"aGk="},{"messageId":"m2","retrievalHint":""}],"count":7,"gap":true,"ids":["a","b"]}"#;
        assert_eq!(str::from_utf8(object.bytes()).unwrap(), expected);
        assert!(serde_json::from_slice::<serde_json::Value>(object.bytes()).is_ok());
    }

    #[test]
    fn control_characters_are_escaped_and_all_else_goes_as_it_is() {
        let all: Vec<u8> = (0..=127).collect();
        let told = ids([&all]);
        let read: Vec<String> = serde_json::from_slice(told.bytes()).unwrap();
        assert_eq!(read[0].as_bytes(), all);
        assert_eq!(ids([b"\n\x1f\x7f\xff\\"]).bytes(), b"[\"\\n\\u001f\x7f\xff\\\\\"]");
        assert_eq!(ids(Vec::<&[u8]>::new()).bytes(), b"[]");
    }
}
