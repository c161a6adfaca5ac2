//! A network card, as the command line says it.

use std::os::fd::RawFd;

use super::MacAddr;

/// A network card (`--net`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Its other end.
    pub tap: TapSource,
    /// Its address; `None`: one made out of the host, the tap and the machine's name.
    pub mac: Option<MacAddr>,
}

/// Where a card's tap comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSource {
    /// The interface of that name, which is created if there is none.
    Named(String),
    /// A tap that is open already, under that number in this process.
    Inherited(RawFd),
}
