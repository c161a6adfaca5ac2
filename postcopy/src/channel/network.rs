//! What a channel knows about the network below it, and asks of it. Only TCP has one.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::sockopt;

use super::{Channel, raw};
use crate::host::socket;

/// What [`Channel::keep_short`] leaves in the socket, in bytes: about as much as is placed while a
/// thread wakes up.
const SHORT: usize = 256 * 1024;
/// The same where pages are lent, which takes fewer calls the more there is room for.
const SHORT_LOCAL: usize = 1024 * 1024;
/// But no less than this: a socket counts its bookkeeping, too.
const SHORT_LEAST: usize = 64 * 1024;
/// What [`Channel::keep_cached`] leaves in the socket, in bytes.
const CACHED: usize = 512 * 1024;
/// A way with a longer round trip needs more on it than [`CACHED`].
const NEAR: Duration = Duration::from_micros(200);
/// A round trip from which on so little on its way would leave a link of 1 Gb/s idle.
const LONG: Duration = Duration::from_millis(1);
/// A paced TCP channel has this much time's worth of unsent bytes in the socket. The kernel wakes
/// the thread that sends when half of it is left, and on a host whose cores are all busy that
/// thread is a millisecond late; the link would be idle meanwhile.
const PACED_TIME: Duration = Duration::from_millis(4);
/// But at least so many: they are sent 64 KiB at once, and with fewer than two of these nothing
/// would be left at each wake-up.
const UNSENT_LEAST: u32 = 256 * 1024;
/// And at most so many, also on a long way that is not paced.
const UNSENT_MOST: u32 = 512 * 1024;
/// `TC_PRIO_INTERACTIVE` of `linux/pkt_sched.h`: the highest that needs no privilege.
const INTERACTIVE: i32 = 6;

/// What TCP knows about a connection and its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Smoothed round trip: each acknowledgement counts for an eighth.
    pub round_trip: Duration,
    /// The shortest round trip of late (as a rule, of the last 5 minutes).
    pub shortest: Duration,
    /// The largest segment, in bytes.
    pub segment: u32,
    /// Bytes that the peer has acknowledged, ever.
    pub arrived: u64,
    /// Bytes on their way: sent and not acknowledged.
    pub in_flight: u64,
    /// Bytes that wait in the socket to be sent.
    pub unsent: u64,
    /// Segments that came from the peer, ever.
    pub segments_in: u32,
    /// Bytes per second that arrived lately, as the kernel reckons.
    pub rate: u64,
    /// Time for which the peer allowed no more bytes, ever.
    pub receiver_limited: Duration,
    /// Bytes per second that the channel is held to; `u64::MAX` if it is not.
    pub pace: u64,
}

impl Channel {
    /// What TCP knows about the way; `None` on any other socket.
    pub fn network(&self) -> Option<Network> {
        let info = raw::tcp_info(self.as_fd())?;
        Some(Network {
            round_trip: Duration::from_micros(info.tcpi_rtt.into()),
            shortest: Duration::from_micros(info.tcpi_min_rtt.into()),
            segment: info.tcpi_snd_mss,
            arrived: info.tcpi_bytes_acked,
            in_flight: u64::from(info.tcpi_unacked.saturating_sub(info.tcpi_sacked)) * u64::from(info.tcpi_snd_mss),
            unsent: info.tcpi_notsent_bytes.into(),
            segments_in: info.tcpi_segs_in,
            rate: info.tcpi_delivery_rate,
            receiver_limited: Duration::from_micros(info.tcpi_rwnd_limited),
            pace: info.tcpi_max_pacing_rate,
        })
    }

    /// From now on few bytes wait in the socket: what is decided next is sent next. For the
    /// background of a postcopy, whose bytes a demanded page must not have to wait for, neither in
    /// the socket nor in the receiver's hands.
    ///
    /// A small buffer also limits what is on its way, and so the rate of a long link: there only
    /// what was not sent yet is limited. Where the background has several `channels`, each has its
    /// share.
    pub fn keep_short(&self, channels: usize) {
        let long = self.network().is_some_and(|network| network.shortest >= LONG);
        if !(long && self.keep_unsent_below((UNSENT_MOST / channels as u32).max(SHORT_LEAST as u32))) {
            let bytes = (if self.is_local() { SHORT_LOCAL } else { SHORT } / channels).max(SHORT_LEAST);
            let _ = socket::setsockopt(self, sockopt::SndBuf, &bytes);
        }
    }

    /// From now on a TCP channel over a short way holds no more than a processor's cache does. Left
    /// to itself TCP lets megabytes pile up between two hosts that are near, and the copies on both
    /// sides then wait for memory.
    pub fn keep_cached(&self) {
        if self.network().is_some_and(|network| network.shortest < NEAR) {
            let _ = socket::setsockopt(self, sockopt::SndBuf, &CACHED);
        }
    }

    fn keep_unsent_below(&self, bytes: u32) -> bool {
        raw::set_option(self.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes).is_ok()
    }

    /// Holds a short TCP channel to `rate` bytes per second (`u64::MAX`: to none). The kernel
    /// spaces the segments out.
    pub fn pace(&self, rate: u64) -> std::io::Result<()> {
        raw::set_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, rate)?;
        let worth = u128::from(rate) * PACED_TIME.as_nanos() / 1_000_000_000;
        let unsent = worth.clamp(UNSENT_LEAST.into(), UNSENT_MOST.into()) as u32;
        self.keep_unsent_below(unsent);
        Ok(())
    }

    /// Marks what is sent as something that somebody waits for: a host's own queues (pfifo_fast,
    /// prio) let it pass. The mark does not leave the host. One that does (DSCP) is left out: what
    /// a network makes of it is not ours to know.
    pub fn mark_interactive(&self) {
        let _ = socket::setsockopt(self, sockopt::Priority, &INTERACTIVE);
    }
}
