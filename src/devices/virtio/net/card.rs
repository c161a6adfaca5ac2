//! [`Net`]: the card's three queues, its descriptors, its saved state.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::super::{Backend, Broken, ConfigSpace, Kind, Work, WorkerEvents};
use super::control::{self, Command};
use super::features::{CTRL_VQ, GUEST_ANNOUNCE, GUEST_OFFLOADS, MRG_RXBUF, OFFERED, offload};
use super::inbox::{Delivery, Inbox};
use super::outbox::{self, Outbox};
use crate::net::{HEADER, Interface, MacAddr, Tap, rarp_frame};
use crate::sentence::sentence;
use crate::state::layout::{Count, Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

const KIND: Kind = Kind { id: 1, name: "virtio-net", version: 1, queues: &[256, 256, 64] };

/// The queues: frames to the driver, frames from it, what it asks for.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL: usize = 2;

/// The descriptors.
const TAP: usize = 0;
const WAKE: usize = 1;
const TIMER: usize = 2;
const MORE: usize = 3;

/// The configuration space: the address, then a u16 of status (section 5.1.4).
const MAC: std::ops::Range<usize> = 0..MacAddr::LEN;
const STATUS: usize = MacAddr::LEN;
const CONFIG: usize = STATUS + 2;
/// Bits of the status.
const LINK_UP: u8 = 1;
const ANNOUNCE: u8 = 2;

/// How many frames are received before something else gets its turn.
const TURN: usize = 64;
/// How many old frames are thrown away at most: more than a tap's queue keeps, unless somebody made
/// it longer.
const OLD: usize = 4096;

/// What the worker does about its tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Heard,
    /// The driver has no buffers for what may come.
    Unheard,
    /// Somebody removed the interface.
    Gone,
}

/// See the module's text.
pub struct Net {
    tap: Tap,
    interface: Arc<Interface>,
    config: Arc<ConfigSpace>,
    /// The address that a reset goes back to. It is the guest's own, and goes along with it.
    mac: MacAddr,
    /// What the driver took; none while it is not ready.
    features: u64,
    /// Which offloads of those it took the driver chose later.
    chosen: Option<u64>,
    input: Input,
    inbox: Inbox,
    outbox: Outbox,
    /// Goes off when an announcement's next round is due.
    timer: TimerFd,
    /// Written when the driver has more to send than one turn takes.
    more: EventFd,
}

impl Net {
    /// The card `interface`, whose other end is `tap`. Fails if the host gives no more descriptors.
    pub fn new(tap: Tap, interface: Arc<Interface>) -> io::Result<Self> {
        let mac = interface.mac();
        let mut config = vec![0; CONFIG];
        config[MAC].copy_from_slice(&mac.bytes());
        config[STATUS] = LINK_UP;
        Ok(Self {
            tap,
            interface,
            config: Arc::new(ConfigSpace::new(config)),
            mac,
            features: 0,
            chosen: None,
            input: Input::Heard,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?,
            more: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        })
    }

    fn hear(&mut self, watch: &WorkerEvents, on: bool) {
        let wanted = if on { Input::Heard } else { Input::Unheard };
        if self.input != Input::Gone && self.input != wanted {
            watch.listen(TAP, self.tap.as_fd(), on);
            self.input = wanted;
        }
    }

    /// Nothing comes from the tap any more.
    fn lose_tap(&mut self, watch: &WorkerEvents, error: &io::Error) {
        log::error!(
            "tap '{}' is gone, the guest's card {} hears nothing: {error}",
            self.tap.name(),
            self.interface.name()
        );
        watch.listen(TAP, self.tap.as_fd(), false);
        self.input = Input::Gone;
    }

    /// Some of the frames that came, as far as the driver has room for them.
    fn receive(&mut self, work: &mut Work<'_>) -> Result<(), Broken> {
        let Some(ring) = work.rings.get_mut(RECEIVE) else {
            self.hear(work.watch, false);
            return Ok(());
        };
        let mut room = true;
        for _ in 0..TURN {
            match self.inbox.fill(&self.tap) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if self.input != Input::Gone {
                        self.lose_tap(work.watch, &error);
                    }
                    break;
                }
            }
            if self.inbox.deliver(ring, work.memory, self.features & MRG_RXBUF != 0)? == Delivery::Waits {
                room = false;
                break;
            }
        }
        self.hear(work.watch, room);
        ring.signal(work.memory)
    }

    fn transmit(&mut self, work: &mut Work<'_>) -> Result<(), Broken> {
        let Some(ring) = work.rings.get_mut(TRANSMIT) else {
            return Ok(());
        };
        if self.outbox.send(&self.tap, ring, work.memory)? {
            // A full counter wakes as well.
            let _ = self.more.write(1);
        }
        Ok(())
    }

    fn control(&mut self, work: &mut Work<'_>) -> Result<(), Broken> {
        let Some(ring) = work.rings.get_mut(CONTROL) else {
            return Ok(());
        };
        ring.serve(work.memory, |chain| {
            let answer = match Command::read(chain, work.memory, self.features)? {
                Some(command) => self.obey(command),
                None => control::ERROR,
            };
            Ok(chain.write_at(work.memory, 0, &[answer])? as u32)
        })
    }

    fn obey(&mut self, command: Command) -> u8 {
        match command {
            Command::SetMac(mac) => self.set_mac(mac),
            // The driver knows what it did: no interrupt.
            Command::AnnounceSeen => self.config.set(|bytes| bytes[STATUS] &= !ANNOUNCE),
            Command::SetOffloads(offloads) => {
                self.chosen = Some(offloads);
                self.follow_driver();
            }
        }
        control::OK
    }

    fn set_mac(&self, mac: MacAddr) {
        self.config.set(|bytes| bytes[MAC].copy_from_slice(&mac.bytes()));
        self.interface.set_mac(mac);
    }

    /// Has the tap leave to the driver what that takes.
    fn follow_driver(&self) {
        let offloads = self.chosen.unwrap_or(GUEST_OFFLOADS) & self.features;
        if let Err(error) = self.tap.set_offload(offload(offloads)) {
            log::error!("{}", sentence(&error));
        }
    }

    /// Throws away what came before there was anybody to hear it.
    fn forget_old_frames(&self) {
        let mut frame = [0; HEADER];
        for _ in 0..OLD {
            if self.tap.receive(&mut frame).is_err() {
                return;
            }
        }
    }

    /// Makes the round of announcements that is due, if one is.
    fn announce(&mut self, ready: bool) {
        let now = Instant::now();
        let (due, next) = self.interface.round(now);
        if due {
            let frame = rarp_frame(self.interface.mac());
            outbox::send(&self.tap, &[IoSlice::new(&[0; HEADER]), IoSlice::new(&frame)]);
            // The driver knows the guest's IP addresses, and announces those.
            if ready && self.features & GUEST_ANNOUNCE != 0 && self.features & CTRL_VQ != 0 {
                self.config.update(|bytes| bytes[STATUS] |= ANNOUNCE);
            }
        }
        self.set_timer(next, now);
    }

    fn set_timer(&self, next: Option<Instant>, now: Instant) {
        let result = match next {
            // Zero would be never.
            Some(next) => {
                let left = next.saturating_duration_since(now).max(std::time::Duration::from_nanos(1));
                self.timer.set(Expiration::OneShot(TimeSpec::from(left)), TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        if let Err(error) = result {
            log::error!("the announcement of the card {} goes no further: {error}", self.interface.name());
        }
    }
}

impl Backend for Net {
    fn kind(&self) -> Kind {
        KIND
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn config(&self) -> Arc<ConfigSpace> {
        self.config.clone()
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        // In the order of the constants.
        vec![self.tap.as_fd(), self.interface.waker().as_fd(), self.timer.as_fd(), self.more.as_fd()]
    }

    /// What came to the tap before was not for this driver. After a migration it was for the guest
    /// where it ran before, and is there.
    fn start(&mut self, features: u64) {
        self.features = features;
        self.follow_driver();
        self.forget_old_frames();
    }

    fn reset(&mut self) {
        self.features = 0;
        self.chosen = None;
        self.inbox.clear();
        self.follow_driver();
        self.set_mac(self.mac);
        self.config.set(|bytes| bytes[STATUS] = LINK_UP);
    }

    fn resumed(&mut self, work: &mut Work<'_>) -> Result<(), Broken> {
        self.announce(!work.rings.is_empty());
        Ok(())
    }

    fn queue_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        match index {
            RECEIVE => self.receive(work),
            TRANSMIT => self.transmit(work),
            _ => self.control(work),
        }
    }

    fn descriptor_ready(&mut self, index: usize, work: &mut Work<'_>) -> Result<(), Broken> {
        match index {
            TAP => return self.receive(work),
            MORE => {
                let _ = self.more.read();
                return self.transmit(work);
            }
            WAKE => drop(self.interface.waker().read()),
            TIMER => drop(self.timer.wait()),
            _ => {}
        }
        self.announce(!work.rings.is_empty());
        Ok(())
    }

    /// Layout, version 1: the 6 bytes of the address that a reset goes back to; u8 whether the
    /// driver chose offloads and u64 which; u32 length of the frame that waits for the driver's
    /// buffers (0: none) and the frame, its header included. The address in use and the status are
    /// in the configuration.
    fn save(&self) -> Vec<u8> {
        let frame = self.inbox.waiting();
        let mut writer = StateWriter::default();
        writer.bytes(&self.mac.bytes());
        writer.u8(self.chosen.is_some().into());
        writer.u64(self.chosen.unwrap_or(0));
        writer.u32(frame.len() as u32);
        writer.bytes(frame);
        writer.finish()
    }

    fn layout(&self) -> &'static [Field] {
        &[
            Field("address", Type::Bytes(Count::Fixed(MacAddr::LEN as u32))),
            Field("choice of offloads", Type::U8),
            Field("offloads", Type::U64),
            Field("waiting frame", Type::Bytes(Count::Prefix)),
        ]
    }

    fn load(&mut self, version: u8, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new(KIND.name, version.into(), KIND.version.into(), bytes)?;
        let mac = reader.bytes(MacAddr::LEN, "address")?;
        let mac = station(mac, &reader)?;
        let chose = reader.u8("choice of offloads")? != 0;
        let offloads = reader.u64("offloads")?;
        let length = reader.count(1, "waiting frame")?;
        let frame = reader.bytes(length, "waiting frame")?;
        // Restored already.
        let in_use = station(&self.config.bytes(), &reader)?;
        if !self.inbox.restore(frame) {
            return Err(reader.impossible("waiting frame's length", length as u64));
        }
        reader.finish()?;
        self.mac = mac;
        self.interface.set_mac(in_use);
        self.chosen = chose.then_some(offloads);
        Ok(())
    }
}

/// The first six bytes as a card's address.
fn station(bytes: &[u8], reader: &StateReader<'_>) -> Result<MacAddr, StateError> {
    let address = bytes.first_chunk::<{ MacAddr::LEN }>().copied().unwrap_or_default();
    let [a, b, c, d, e, f] = address;
    let value = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    MacAddr::new(address).ok_or_else(|| reader.impossible("address", value))
}
