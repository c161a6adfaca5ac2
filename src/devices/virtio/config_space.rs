//! The bytes that a driver reads behind the transport's registers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::signal::Signal;

/// A device's configuration space (virtio 1.2, section 2.5), with the counter by which a driver
/// sees that it changed while it was being read. Locked for moments only, and never while guest RAM
/// is touched.
pub struct ConfigSpace {
    space: Mutex<Space>,
    /// Which bytes the driver may write.
    writable: std::ops::Range<usize>,
}

struct Space {
    bytes: Vec<u8>,
    generation: u32,
    /// How the driver is told of a change; known once the device is on its bus.
    signal: Option<Signal>,
}

impl ConfigSpace {
    /// A space of these bytes, which the driver may only read.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::with_writable(bytes, 0..0)
    }

    /// A space of these bytes, of which the driver may write those in `writable`.
    pub fn with_writable(bytes: Vec<u8>, writable: std::ops::Range<usize>) -> Self {
        Self { space: Mutex::new(Space { bytes, generation: 0, signal: None }), writable }
    }

    fn lock(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connect(&self, signal: Signal) {
        self.lock().signal = Some(signal);
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Changes it and tells the driver, by a configuration interrupt, if there was a change.
    pub fn update(&self, change: impl FnOnce(&mut [u8])) {
        let mut space = self.lock();
        let before = space.bytes.clone();
        change(&mut space.bytes);
        if space.bytes != before {
            space.generation = space.generation.wrapping_add(1);
            if let Some(signal) = &space.signal {
                signal.config_changed();
            }
        }
    }

    /// Changes it where the driver need not be told: it is not ready, or did it itself.
    pub fn set(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.lock().bytes);
    }

    pub(super) fn generation(&self) -> u32 {
        self.lock().generation
    }

    pub(super) fn restore(&self, bytes: &[u8], generation: u32) -> bool {
        let mut space = self.lock();
        let fits = space.bytes.len() == bytes.len();
        if fits {
            space.bytes.copy_from_slice(bytes);
            space.generation = generation;
        }
        fits
    }

    /// A driver's read; what lies beyond is zero.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        let space = self.lock();
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = offset.checked_add(at).and_then(|at| space.bytes.get(at)).copied().unwrap_or(0);
        }
    }

    /// A driver's write; whether it changed something. What it may not write stays as it is.
    pub(super) fn write(&self, offset: usize, data: &[u8]) -> bool {
        let inside = offset.checked_add(data.len()).is_some_and(|end| end <= self.writable.end);
        if offset < self.writable.start || !inside {
            return false;
        }
        match self.lock().bytes.get_mut(offset..offset + data.len()) {
            Some(bytes) => {
                bytes.copy_from_slice(data);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_beyond_the_end_are_zero_and_only_writable_bytes_are_written() {
        let config = ConfigSpace::with_writable(vec![1, 2, 3, 4, 5, 6, 7, 8], 4..8);
        let mut data = [9; 4];
        config.read(6, &mut data);
        assert_eq!(data, [7, 8, 0, 0]);
        config.read(usize::MAX, &mut data);
        assert_eq!(data, [0; 4]);
        assert!(!config.write(0, &[9]));
        assert!(!config.write(6, &[9, 9, 9]));
        assert!(config.write(4, &[9, 9]));
        assert_eq!(config.bytes(), [1, 2, 3, 4, 9, 9, 7, 8]);
    }

    #[test]
    fn a_change_counts_and_no_change_does_not() {
        let config = ConfigSpace::new(vec![0; 2]);
        config.update(|bytes| bytes[1] = 1);
        config.update(|bytes| bytes[1] = 1);
        config.set(|bytes| bytes[0] = 7);
        assert_eq!((config.generation(), config.bytes()), (1, vec![7, 1]));
        assert!(!config.restore(&[1], 5));
        assert!(config.restore(&[1, 2], 5));
        assert_eq!((config.generation(), config.bytes()), (5, vec![1, 2]));
    }
}
