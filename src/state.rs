//! Saved state as bytes: little-endian fields one after another, nothing implied.
//!
//! Every CPU and device writes its fields with a [`StateWriter`] and reads them back with a
//! [`StateReader`], which refuses what is too short, too long or of an unknown version, naming the
//! device. [`layout`] describes the same fields to tools. Nothing here knows of migration.

pub mod layout;

/// Why saved state cannot be loaded. Each variant names the device.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The layout's version is not the one that is built in.
    #[error(
        "saved state of {device} has version {found}, this program knows version {known}: use the same release on both hosts"
    )]
    Version {
        /// The device.
        device: &'static str,
        /// What the state says.
        found: u32,
        /// What this program reads.
        known: u32,
    },
    /// The bytes end inside a field.
    #[error("saved state of {device} ends inside its {field}")]
    Truncated {
        /// The device.
        device: &'static str,
        /// The field that is cut off.
        field: &'static str,
    },
    /// Bytes are left after the last field.
    #[error("saved state of {device} is {count} bytes too long")]
    Trailing {
        /// The device.
        device: &'static str,
        /// How many bytes are left over.
        count: usize,
    },
    /// A field holds what cannot be.
    #[error("saved state of {device} holds the impossible value {value:#x} in its {field}")]
    Value {
        /// The device.
        device: &'static str,
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
}

/// Collects the fields of one device's state.
#[derive(Debug, Default)]
pub struct StateWriter(Vec<u8>);

impl StateWriter {
    /// An empty state with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends bytes as they are; the reader must know how many.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The state.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes the fields of one device's state apart again.
#[derive(Debug)]
pub struct StateReader<'a> {
    device: &'static str,
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// Reads `bytes`, saved by `device` in layout `version`; `known` is the only version accepted.
    pub fn new(device: &'static str, version: u32, known: u32, bytes: &'a [u8]) -> Result<Self, StateError> {
        if version != known {
            return Err(StateError::Version { device, found: version, known });
        }
        Ok(Self { device, rest: bytes })
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], StateError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(StateError::Truncated { device: self.device, field })?;
        self.rest = rest;
        #[cfg(test)]
        testing::note(field, count);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], StateError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, field)?);
        Ok(array)
    }

    /// The next byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, StateError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// The next four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, StateError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// The next eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, StateError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A count that is followed by that many items of `size` bytes: refused if they cannot all be
    /// there, so that nothing is allocated for a lie.
    pub fn count(&mut self, size: usize, field: &'static str) -> Result<usize, StateError> {
        let count = self.u32(field)? as usize;
        if count.saturating_mul(size) > self.rest.len() {
            return Err(StateError::Truncated { device: self.device, field });
        }
        Ok(count)
    }

    /// All that is left, for a part that reads itself.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// An error about `field`, for a value that the device itself finds impossible.
    pub fn impossible(&self, field: &'static str, value: u64) -> StateError {
        StateError::Value { device: self.device, field, value }
    }

    /// Ends reading: nothing may be left.
    pub fn finish(self) -> Result<(), StateError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(StateError::Trailing { device: self.device, count: self.rest.len() })
        }
    }
}

/// Layouts against the devices that have them.
#[cfg(test)]
pub mod testing {
    use std::cell::RefCell;

    use super::layout::{Field, fields_json};
    use crate::analyze::leaves;

    thread_local! {
        /// What readers of this thread have read: fields and bytes.
        static READ: RefCell<Vec<(&'static str, usize)>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(field: &'static str, bytes: usize) {
        READ.with_borrow_mut(|read| read.push((field, bytes)));
    }

    /// Panics unless `bytes`, which a device saved, are exactly what `layout` says, and `load`,
    /// which reads them, reads the same fields in the same order, or has one name for several of
    /// them that follow each other.
    pub fn assert_layout(layout: &[Field], bytes: &[u8], load: impl FnOnce()) {
        let leaves = leaves(&fields_json(layout), bytes);
        let mut described = leaves.into_iter().filter(|(_, bytes)| *bytes > 0);
        READ.with_borrow_mut(Vec::clear);
        load();
        for (field, bytes) in READ.take() {
            let mut have = 0;
            while have < bytes {
                let (path, more) = described.next().unwrap_or_else(|| panic!("the layout lacks '{field}'"));
                assert!(path.iter().any(|name| name == field), "'{field}' is read where the layout has {path:?}");
                have += more;
            }
            assert_eq!(have, bytes, "'{field}' has other bytes in the layout");
        }
        assert_eq!(described.next(), None, "the layout has more than is read");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order() {
        let mut writer = StateWriter::default();
        writer.u8(7);
        writer.u32(0x0102_0304);
        writer.u64(u64::MAX - 1);
        writer.bytes(b"xyz");
        let bytes = writer.finish();
        assert_eq!(&bytes[..5], &[7, 4, 3, 2, 1]);
        let mut reader = StateReader::new("toy", 3, 3, &bytes).unwrap();
        assert_eq!(reader.u8("a").unwrap(), 7);
        assert_eq!(reader.u32("b").unwrap(), 0x0102_0304);
        assert_eq!(reader.u64("c").unwrap(), u64::MAX - 1);
        assert_eq!(reader.bytes(3, "d").unwrap(), b"xyz");
        reader.finish().unwrap();
    }

    #[test]
    fn a_layout_that_is_not_what_is_read_is_noticed() {
        use super::layout::{Count, Field, Type};
        let layout = |second, kind| [Field("a", Type::U32), Field(second, kind)];
        let load = || {
            let mut reader = StateReader::new("toy", 1, 1, &[1, 0, 0, 0, 2, 3]).unwrap();
            reader.u32("a").unwrap();
            reader.bytes(2, "b").unwrap();
        };
        let check = |layout: &[Field]| testing::assert_layout(layout, &[1, 0, 0, 0, 2, 3], load);
        check(&layout("b", Type::Bytes(Count::Fixed(2))));
        check(&layout("b", Type::Struct(&[Field("one", Type::U8), Field("other", Type::U8)])));
        for wrong in [layout("c", Type::U16), layout("b", Type::U8), layout("b", Type::Bytes(Count::Prefix))] {
            assert!(std::panic::catch_unwind(|| check(&wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        let error = StateReader::new("toy", 4, 3, &[]).unwrap_err();
        assert_eq!(error, StateError::Version { device: "toy", found: 4, known: 3 });
        assert!(error.to_string().contains("toy"));
    }

    #[test]
    fn short_long_and_lying_states_are_refused() {
        let mut reader = StateReader::new("toy", 1, 1, &[1, 2, 3]).unwrap();
        assert!(matches!(reader.u32("a"), Err(StateError::Truncated { field: "a", .. })));
        let reader = StateReader::new("toy", 1, 1, &[1, 2, 3]).unwrap();
        assert!(matches!(reader.finish(), Err(StateError::Trailing { count: 3, .. })));
        let lie = u32::MAX.to_le_bytes();
        let mut reader = StateReader::new("toy", 1, 1, &lie).unwrap();
        assert!(reader.count(16, "list").is_err());
    }
}
