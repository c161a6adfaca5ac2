//! [`Transcript`]: everything that a stream has said so far, and waiting for it to say something.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Everything that a stream has said so far. A thread of its own reads on, so that the writer never
/// waits.
#[derive(Clone, Default)]
pub struct Transcript {
    shared: Arc<(Mutex<Said>, Condvar)>,
}

/// What was said.
#[derive(Default)]
pub struct Said {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Whether that is all there will ever be.
    pub ended: bool,
}

impl Transcript {
    /// Listens to `stream` until it ends.
    pub fn of(mut stream: impl Read + Send + 'static) -> Self {
        let this = Self::default();
        let shared = Arc::clone(&this.shared);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // A socket whose other side died in the middle of something ends with an error: an
                // end all the same.
                let count = stream.read(&mut buffer).unwrap_or(0);
                let mut said = shared.0.lock().unwrap();
                said.bytes.extend_from_slice(&buffer[..count]);
                said.ended = count == 0;
                shared.1.notify_all();
                if said.ended {
                    return;
                }
            }
        });
        this
    }

    /// Waits until `look` finds what it looks for; `None` if that takes longer than `limit`.
    pub fn wait_for<T>(&self, limit: Duration, mut look: impl FnMut(&Said) -> Option<T>) -> Option<T> {
        let said = self.shared.0.lock().unwrap();
        let mut found = None;
        let (_said, _) = self
            .shared
            .1
            .wait_timeout_while(said, limit, |said| {
                found = look(said);
                found.is_none()
            })
            .unwrap();
        found
    }

    /// Waits for the stream's end.
    pub fn wait_for_end(&self, limit: Duration) -> Option<()> {
        self.wait_for(limit, |said| said.ended.then_some(()))
    }

    /// Whether the stream has ended.
    pub fn has_ended(&self) -> bool {
        self.shared.0.lock().unwrap().ended
    }

    /// All of it so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.0.lock().unwrap().bytes).into_owned()
    }
}
