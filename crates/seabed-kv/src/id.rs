//! Tenant ids: any short text, and the file name that it is stored under.

use std::fmt;
use std::str::FromStr;

use crate::limits::TENANT_ID_BYTES_MAX;
use crate::{Error, Result};

/// The name of a tenant (upstream: a job id): 1 to 200 bytes of any text.
///
/// A tenant's file is `<root>/<id>.db`. ASCII letters, digits, `-`, `_` and `.` (not in front) stand for themselves, so
/// ids that upstream's users have are the file names they know; every other byte is written as `%` and two
/// upper-case hexadecimal digits. So no id can leave the root, and no two ids share a file.
///
/// ```
/// # use seabed_kv::TenantId;
/// assert_eq!(TenantId::new("sds")?.file_name(), "sds.db");
/// assert_eq!(TenantId::new("../etc")?.file_name(), "%2E.%2Fetc.db");
/// assert_eq!(TenantId::from_file_name("%2E.%2Fetc.db").unwrap().as_str(), "../etc");
/// # Ok::<(), seabed_kv::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Box<str>);

impl TenantId {
    /// Checks an id.
    ///
    /// # Errors
    /// `InvalidArgument` when it is empty, longer than 200 bytes, or when its file name would be longer than the 251
    /// bytes that file systems leave beside `-wal`.
    pub fn new(id: impl AsRef<str>) -> Result<Self> {
        let id = id.as_ref();
        if id.is_empty() {
            return Err(Error::invalid("the tenant id is empty; give it at least one character"));
        }
        if id.len() > TENANT_ID_BYTES_MAX {
            return Err(Error::invalid(format!(
                "the tenant id has {} bytes, more than the {TENANT_ID_BYTES_MAX} allowed",
                id.len()
            )));
        }
        let id = Self(id.into());
        let length = id.file_name().len();
        if length > 251 {
            return Err(Error::invalid(format!(
                "the tenant id needs a file name of {length} bytes, more than the 251 that file systems allow; \
                 use fewer characters outside A-Z, a-z, 0-9, '-', '_' and '.'"
            )));
        }
        Ok(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the file that holds this tenant.
    pub fn file_name(&self) -> String {
        use fmt::Write as _;
        let mut name = String::with_capacity(self.0.len() + 3);
        for (position, byte) in self.0.bytes().enumerate() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
                b'.' if position > 0 => name.push('.'),
                _ => {
                    let _ = write!(name, "%{byte:02X}");
                }
            }
        }
        name.push_str(".db");
        name
    }

    /// The id whose file has this name; `None` for a file that is no tenant's.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".db")?;
        let mut bytes = Vec::with_capacity(stem.len());
        let mut rest = stem.as_bytes();
        while let Some((&byte, tail)) = rest.split_first() {
            if byte == b'%' {
                let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = tail.get(2..)?;
            } else {
                bytes.push(byte);
                rest = tail;
            }
        }
        let id = Self::new(String::from_utf8(bytes).ok()?).ok()?;
        // Only the spelling that `file_name` writes, so that two files cannot be one tenant.
        (id.file_name() == name).then_some(id)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.chars().any(|character| character.is_control() || character == '"') {
            write!(f, "{:?}", self.0)
        } else {
            f.write_str(&self.0)
        }
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for TenantId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self> {
        Self::new(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_leaves_the_root_and_each_comes_back() {
        for text in [
            "sds",
            "a.b",
            ".hidden",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "a\\b",
            "nul\0",
            "канал-β",
            "%41",
            "LOCK",
            "x.db-wal",
            " ",
            "\u{202e}",
        ] {
            let id = TenantId::new(text).unwrap();
            let name = id.file_name();
            assert!(!name.starts_with('.') && !name.contains(['/', '\\', '\0']), "{text:?} became {name:?}");
            assert_eq!(TenantId::from_file_name(&name).as_ref(), Some(&id));
        }
    }

    #[test]
    fn other_spellings_of_a_file_name_are_no_tenant() {
        for name in
            ["%41.db", "%2e.db", "a.db-wal", "LOCK", ".db", "%.db", "%4.db", "%zz.db", "%ff.db", ".x.db"]
        {
            assert_eq!(TenantId::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(TenantId::new("").is_err());
        assert!(TenantId::new("x".repeat(200)).is_ok());
        assert!(TenantId::new("x".repeat(201)).is_err());
        assert!(TenantId::new("é".repeat(60)).is_err());
    }
}
