//! Whether the rows of a client are one chain, pure: from its first version to its latest, and nothing beside it.

use std::collections::BTreeMap;

use uuid::Uuid;

/// A version, as a row of the original's database names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) version: Uuid,
    pub(super) parent: Uuid,
    /// How long it is.
    pub(super) bytes: u64,
    /// Where its bytes are.
    pub(super) row: i64,
}

/// A snapshot, as the row of its client describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SnapshotHead {
    pub(super) version: Uuid,
    pub(super) unix_s: u64,
    pub(super) versions_since: u64,
    pub(super) bytes: u64,
}

/// Puts a client's versions in the order of the chain that leads to `latest`. Without any version a client may still have a latest
/// one: what it is to go on from.
///
/// # Errors
/// Why they are not one chain, in a sentence that names the version.
pub(super) fn order(latest: Uuid, links: Vec<Link>) -> Result<Vec<Link>, String> {
    let mut left = BTreeMap::new();
    for link in links {
        if link.version.is_nil() {
            return Err("a version has the nil id".to_owned());
        }
        if left.insert(link.version, link).is_some() {
            return Err(format!("version {} is there twice", link.version));
        }
    }
    let Some((version, _)) = left.first_key_value() else { return Ok(Vec::new()) };
    if latest.is_nil() {
        return Err(format!("it names no latest version, but has {}, such as {version}", count(left.len())));
    }
    let mut chain: Vec<Link> = Vec::with_capacity(left.len());
    let mut next = left.remove(&latest);
    while let Some(link) = next {
        next = left.remove(&link.parent);
        chain.push(link);
    }
    chain.reverse();
    let Some(first) = chain.first() else {
        return Err(format!("its latest version {latest} is missing"));
    };
    if chain.iter().any(|link| link.version == first.parent) {
        return Err(format!("its chain comes back to version {}", first.parent));
    }
    match left.first_key_value() {
        None => Ok(chain),
        Some((_, stray)) => Err(why_apart(*stray, left.len(), &chain)),
    }
}

/// Why a version that does not lead to the latest one does not.
fn why_apart(stray: Link, strays: usize, chain: &[Link]) -> String {
    let (version, parent) = (stray.version, stray.parent);
    if let Some(link) = chain.iter().find(|link| link.parent == parent) {
        return format!("its chain forks: versions {} and {version} both follow {parent}", link.version);
    }
    if chain.iter().any(|link| link.version == parent) {
        return format!("version {version} follows the latest version {parent}");
    }
    let (first, gone) = chain.first().map_or((version, parent), |first| (first.version, first.parent));
    format!(
        "version {first} follows {gone}, which is missing, and {}, such as {version}, cannot be reached",
        count(strays)
    )
}

fn count(versions: usize) -> String {
    if versions == 1 { "1 version".to_owned() } else { format!("{versions} versions") }
}

/// Whether a snapshot belongs to the chain: taken at one of its versions, or at what its first version follows.
///
/// # Errors
/// Why it does not.
pub(super) fn check_snapshot(snapshot: &SnapshotHead, chain: &[Link]) -> Result<(), String> {
    let version = snapshot.version;
    let follows = chain.first().is_some_and(|first| first.parent == version && !version.is_nil());
    if !follows && !chain.iter().any(|link| link.version == version) {
        return Err(format!("its snapshot is of version {version}, which is not in its chain"));
    }
    if snapshot.versions_since > chain.len() as u64 {
        return Err(format!(
            "its snapshot counts {} versions since it was taken, but there are {}",
            snapshot.versions_since,
            chain.len()
        ));
    }
    Ok(())
}

/// The id in a text that the original wrote: it looks ids up by exactly this spelling, and so finds no other.
///
/// # Errors
/// Why it is none.
pub(super) fn read_id(what: &str, text: &str) -> Result<Uuid, String> {
    match Uuid::parse_str(text) {
        Ok(id) if id.hyphenated().to_string() == text => Ok(id),
        Ok(id) => Err(format!("{what} is written '{text}', where the original would only find '{id}'")),
        Err(_) => Err(format!("{what} is '{text}', which is no UUID")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn links(pairs: &[(u128, u128)]) -> Vec<Link> {
        let link = |&(parent, version)| Link { version: id(version), parent: id(parent), bytes: 1, row: 0 };
        pairs.iter().map(link).collect()
    }

    fn check(latest: u128, pairs: &[(u128, u128)], expected: Result<&[u128], &str>) {
        let found = order(id(latest), links(pairs));
        match expected {
            Ok(versions) => {
                let found: Vec<_> = found.unwrap().iter().map(|link| link.version.as_u128()).collect();
                assert_eq!(found, versions, "{pairs:?}");
            }
            Err(part) => {
                let found = found.unwrap_err();
                assert!(found.contains(part), "{pairs:?}: {found}");
            }
        }
    }

    #[test]
    fn a_chain_from_nil_or_from_elsewhere_is_put_in_order() {
        check(0, &[], Ok(&[]));
        check(5, &[], Ok(&[]));
        check(1, &[(0, 1)], Ok(&[1]));
        check(3, &[(2, 3), (0, 1), (1, 2)], Ok(&[1, 2, 3]));
        check(3, &[(2, 3), (9, 1), (1, 2)], Ok(&[1, 2, 3]));
    }

    #[test]
    fn what_is_no_chain_is_said_with_its_version() {
        let shown = |number| id(number).to_string();
        check(
            0,
            &[(0, 1)],
            Err(&format!("names no latest version, but has 1 version, such as {}", shown(1))),
        );
        check(5, &[(0, 1)], Err(&format!("latest version {} is missing", shown(5))));
        // A gap.
        let gap = format!("version {} follows {}, which is missing, and 2 versions", shown(4), shown(3));
        check(4, &[(0, 1), (1, 2), (3, 4)], Err(&gap));
        // Forks: in the middle, at the first version, and behind the latest.
        let fork = format!("versions {} and {} both follow {}", shown(2), shown(3), shown(1));
        check(2, &[(0, 1), (1, 2), (1, 3)], Err(&fork));
        check(1, &[(0, 1), (0, 2)], Err("both follow"));
        check(2, &[(0, 1), (1, 2), (2, 3)], Err(&format!("follows the latest version {}", shown(2))));
        check(2, &[(2, 1), (1, 2)], Err("comes back to"));
        check(1, &[(1, 1)], Err("comes back to"));
        check(1, &[(0, 1), (2, 3), (3, 2)], Err("cannot be reached"));
        check(1, &[(0, 1), (0, 1)], Err("there twice"));
        check(1, &[(1, 0)], Err("nil id"));
    }

    #[test]
    fn a_snapshot_is_of_the_chain_or_just_before_it() {
        let chain = order(id(3), links(&[(9, 1), (1, 2), (2, 3)])).unwrap();
        let of = |version, versions_since| {
            let snapshot = SnapshotHead { version: id(version), unix_s: 0, versions_since, bytes: 1 };
            check_snapshot(&snapshot, &chain)
        };
        for version in [1, 2, 3, 9] {
            assert_eq!(of(version, 3), Ok(()));
        }
        assert!(of(4, 0).unwrap_err().contains("not in its chain"));
        assert!(of(3, 4).unwrap_err().contains("counts 4 versions"));
        let from_nil = order(id(1), links(&[(0, 1)])).unwrap();
        let nil = SnapshotHead { version: id(0), unix_s: 0, versions_since: 0, bytes: 1 };
        assert!(check_snapshot(&nil, &from_nil).is_err() && check_snapshot(&nil, &[]).is_err());
    }

    #[test]
    fn ids_have_one_spelling() {
        let text = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert_eq!(read_id("it", text).unwrap().to_string(), text);
        assert!(read_id("it", &text.to_uppercase()).unwrap_err().contains("only find"));
        assert!(read_id("it", &text.replace('-', "")).is_err());
        assert!(read_id("it", "alice").unwrap_err().contains("'alice', which is no UUID"));
    }
}
