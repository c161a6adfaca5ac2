//! The stream's bytes: pure functions between message values and their encoding. `docs/protocol.md`
//! shows every byte.
//!
//! Nothing in this folder reads a socket, a clock or guest memory; page contents never pass through
//! it.

mod codec;
pub mod description;
mod fragment;
pub mod grammar;
mod hello;
mod message;

pub use crate::encoding::MAX_COMPRESSED_PAGES;
pub use codec::{DecodeError, Header, decode_demand, decode_forward, decode_multifd, decode_reply};
pub use fragment::{Fragment, fragments};
pub(crate) use hello::is_hello;
pub use hello::{Answer, ChannelKind, Features, Hello, HelloError, Token, VERSION_MAX, VERSION_MIN};
pub use message::{BlockDescription, Forward, MAX_RUN_PAGES, Reply, Request, tag};
