//! `whimbrel demo`: one live guest, two real processes, three ways to move; what it costs, as a
//! table and a picture.
//!
//! | file | what is in it |
//! |---|---|
//! | `options.rs` | what the user may choose |
//! | `run.rs` | the whole demo: one move after the other, then table and picture |
//! | `journey.rs` | one move, from booting to verifying |
//! | `vm.rs` | a child process with its serial port and its monitor |
//! | `serial_capture.rs` | hears both serial ports and notes when |
//! | `trace.rs`, `measure.rs` | what the guest said and when; what that means (pure) |
//! | `host.rs` | what the figures are from |
//! | `live.rs`, `table.rs`, `picture.rs`, `svg.rs` | how it is shown |

mod error;
mod host;
mod journey;
mod live;
mod measure;
mod options;
mod picture;
mod run;
mod serial_capture;
mod svg;
mod table;
mod trace;
mod vm;

pub use error::DemoError;
pub use options::Options;
pub use run::demo;
