//! Errors as sentences for users.

pub use whimbrel_postcopy::error::sentence;
