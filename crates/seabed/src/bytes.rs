//! One notation for bytes, in arguments, tables and JSON: printable text stands for itself, everything else is `0x` and
//! hexadecimal digits. What is shown can be pasted back as an argument, and no two byte strings look the same.

/// The bytes as text.
pub(crate) fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("0x") && text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) => {
            text.to_owned()
        }
        _ => format!("0x{}", hex::encode(bytes)),
    }
}

/// The text as bytes. Dashes between hexadecimal digits are skipped, so that a UUID can be pasted behind `0x`.
///
/// # Errors
/// A sentence, when what follows `0x` is not pairs of hexadecimal digits.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, String> {
    let Some(digits) = text.strip_prefix("0x") else { return Ok(text.as_bytes().to_vec()) };
    hex::decode(digits.replace('-', ""))
        .map_err(|error| format!("'{text}' begins with 0x, but what follows is not hexadecimal: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_given_back() {
        for bytes in [
            b"".as_slice(),
            b"sds.meta",
            b"0x",
            b"0xzz",
            b"a b",
            b"\0\x04chan",
            b"\xff",
            "ключ".as_bytes(),
            b"\n",
        ] {
            assert_eq!(parse(&show(bytes)).unwrap(), bytes);
        }
        assert_eq!(show(b"0x61"), "0x30783631");
    }

    #[test]
    fn a_uuid_behind_0x_is_its_bytes() {
        assert_eq!(parse("0x67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap().len(), 16);
        assert!(parse("0x123").is_err() && parse("0xzz").is_err());
    }
}
