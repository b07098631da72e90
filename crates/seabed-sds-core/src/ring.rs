//! The last ids of some kind, each once, under running numbers: what a store keeps as rows and forgets from the oldest on.

use std::collections::BTreeMap;

use crate::MessageId;

/// Ids in the order of their numbers, each with a value.
#[derive(Debug, Clone)]
pub(crate) struct Ring<T> {
    rows: BTreeMap<u64, (MessageId, T)>,
    numbers: BTreeMap<MessageId, u64>,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), numbers: BTreeMap::new() }
    }
}

impl<T> Ring<T> {
    #[cfg(feature = "sim")]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn number(&self, id: &MessageId) -> Option<u64> {
        self.numbers.get(id).copied()
    }

    pub(crate) fn get(&self, id: &MessageId) -> Option<&T> {
        self.row(self.number(id)?).map(|(_, value)| value)
    }

    pub(crate) fn row(&self, number: u64) -> Option<&(MessageId, T)> {
        self.rows.get(&number)
    }

    /// The row with the highest number.
    pub(crate) fn newest(&self) -> Option<&T> {
        self.rows.last_key_value().map(|(_, (_, value))| value)
    }

    pub(crate) fn value_mut(&mut self, number: u64) -> Option<&mut T> {
        self.rows.get_mut(&number).map(|(_, value)| value)
    }

    /// The number that the next id gets: one more than the newest, so that what was loaded goes on as it was.
    pub(crate) fn next_number(&self) -> u64 {
        self.rows.last_key_value().map_or(0, |(number, _)| number.saturating_add(1))
    }

    /// Makes the id the newest. Tells its number, and the one that it had before.
    pub(crate) fn push(&mut self, id: MessageId, value: T) -> (u64, Option<u64>) {
        let number = self.next_number();
        let before = self.remove(&id);
        self.place(number, id, value);
        (number, before)
    }

    /// Puts a row where it was stored; false when its number or its id is taken.
    #[must_use]
    pub(crate) fn restore(&mut self, number: u64, id: MessageId, value: T) -> bool {
        if self.rows.contains_key(&number) || self.numbers.contains_key(&id) {
            return false;
        }
        self.place(number, id, value);
        true
    }

    fn place(&mut self, number: u64, id: MessageId, value: T) {
        self.numbers.insert(id.clone(), number);
        self.rows.insert(number, (id, value));
    }

    pub(crate) fn remove(&mut self, id: &MessageId) -> Option<u64> {
        let number = self.numbers.remove(id)?;
        self.rows.remove(&number);
        Some(number)
    }

    /// Forgets the oldest when there are more than `count_max`, and tells its number.
    pub(crate) fn forget_oldest(&mut self, count_max: usize) -> Option<u64> {
        if self.rows.len() <= count_max {
            return None;
        }
        let (number, (id, _)) = self.rows.pop_first()?;
        self.numbers.remove(&id);
        Some(number)
    }

    /// The rows from a number on, oldest first.
    pub(crate) fn from(&self, number: u64) -> impl DoubleEndedIterator<Item = (u64, &MessageId, &T)> {
        self.rows.range(number..).map(|(number, (id, value))| (*number, id, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_there_once_and_the_oldest_goes_first() {
        let mut ring = Ring::default();
        assert_eq!(ring.push("a".into(), 1), (0, None));
        assert_eq!(ring.push("b".into(), 2), (1, None));
        assert_eq!(ring.push("a".into(), 3), (2, Some(0)));
        assert_eq!(ring.get(&"a".into()), Some(&3));
        assert_eq!(ring.forget_oldest(2), None);
        assert_eq!(ring.forget_oldest(1), Some(1));
        assert_eq!(ring.get(&"b".into()), None);
        assert_eq!(ring.from(0).map(|(number, _, value)| (number, *value)).collect::<Vec<_>>(), [(2, 3)]);
    }

    #[test]
    fn a_stored_row_comes_back_to_its_place_and_only_once() {
        let mut ring = Ring::default();
        assert!(ring.restore(7, "a".into(), ()));
        assert!(!ring.restore(7, "b".into(), ()));
        assert!(!ring.restore(8, "a".into(), ()));
        assert_eq!(ring.push("b".into(), ()), (8, None));
    }
}
