//! The monitor for programs: JSON objects in, JSON objects out, as QEMU's QMP.

mod command;
mod quotes;
mod session;

pub use session::QmpSession;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(in crate::monitor) use tests::run;
#[cfg(test)]
mod types;
