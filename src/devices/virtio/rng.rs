//! Entropy (virtio 1.2, section 5.4): fills what the driver gives with bytes from the host's random
//! source.

use std::sync::Arc;

use super::{Backend, Broken, ConfigSpace, Kind, Work};
use crate::state::layout::Field;
use crate::state::{StateError, StateReader};

/// The most that is filled of one buffer: a driver that gives more asks again. It bounds what one
/// request costs.
const LIMIT: usize = 64 << 10;

/// See the module's text.
pub struct Rng {
    config: Arc<ConfigSpace>,
}

impl Default for Rng {
    fn default() -> Self {
        Self { config: Arc::new(ConfigSpace::new(Vec::new())) }
    }
}

impl Backend for Rng {
    fn kind(&self) -> Kind {
        Kind { id: 4, name: "virtio-rng", version: 1, queues: &[64] }
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        let Some(ring) = work.rings.get_mut(index) else {
            return Ok(());
        };
        ring.serve(work.memory, |chain| {
            let mut bytes = vec![0; chain.writable_bytes().min(LIMIT as u64) as usize];
            match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
                Ok(count) => bytes.truncate(count),
                Err(error) => {
                    log::error!("the host gives no random bytes: {error}");
                    bytes.clear();
                }
            }
            Ok(chain.write_at(work.memory, 0, &bytes)? as u32)
        })
    }

    /// Layout, version 1: nothing.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn layout(&self) -> &'static [Field] {
        &[]
    }

    fn load(&mut self, version: u8, bytes: &[u8]) -> Result<(), StateError> {
        StateReader::new("virtio-rng", version.into(), 1, bytes)?.finish()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::Driver;

    #[test]
    fn a_buffer_is_filled_with_bytes_that_differ() {
        let mut driver = Driver::start(Box::new(Rng::default()), 0);
        let first = driver.request(0, &[], 64);
        let second = driver.request(0, &[], 64);
        assert_eq!((first.len(), second.len()), (64, 64));
        assert_ne!(first, second);
        // Nothing to fill is filled with nothing.
        assert_eq!(driver.request(0, b"read me", 0), b"");
    }

    #[test]
    fn it_has_no_state_of_its_own() {
        let mut rng = Rng::default();
        crate::state::testing::assert_layout(rng.layout(), &rng.save(), || rng.load(1, &[]).unwrap());
        assert!(rng.load(2, &[]).is_err());
        assert!(rng.load(1, &[0]).is_err());
    }
}
