//! What every module opens the host's files and unix sockets with: nothing waits for another
//! process, and a socket's path is private to its user.
//!
//! The migration engine needs the same for its own files and sockets and stands alone, so the code
//! is there. Modules that have nothing to do with migration know this list of it and no more.

pub use whimbrel_postcopy::channel::{ListenError, PrivateListener, connect_private};
pub use whimbrel_postcopy::files;
