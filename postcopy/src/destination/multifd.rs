//! The multifd channels of the destination: a thread for each takes pages off it and puts them in
//! place.
//!
//! The control channel says when pages come on them (`spread`) and when no more do (`gather`); each
//! of them says the latter, too, behind its last page. So nothing of the control channel ever
//! overtakes a page, or is overtaken by one: between the two it has nothing to say, and what
//! follows `gather` is not looked at before every channel has come as far.
//!
//! ```text
//! control    ... multifd start ──────────── multifd flush │ ...
//! multifd 0         pages pages ... multifd flush ────────│
//! multifd 1         pages ... multifd flush ──────────────│
//!
//! the threads' gate:  Shut ──start──> Open ──flush, once every channel has come to its own──> Shut
//! ```

use std::sync::{Arc, PoisonError};

use super::intake::{Intake, MULTIFD_BUFFER};
use super::state::Compressed;
use crate::channel::{Channel, ChannelError, MessageReader, Wake};
use crate::encoding::Decompressor;
use crate::error::MigrationError;
use crate::guest::EngineThread;
use crate::host::thread::{self, JoinHandle};
use crate::host::{Condvar, Mutex, MutexGuard};
use crate::thread_priority::use_short_slices;
use crate::wire::{Forward, decode_multifd};

/// What pages are that come on the multifd channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultifdEpoch {
    /// Precopied: nothing runs here.
    Precopy,
    /// The background of a postcopy.
    Postcopy,
}

/// Whether the threads may take pages.
#[derive(Debug)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Stretches begun so far; the threads count along.
    begun: u64,
    stretch: Option<MultifdEpoch>,
    /// How many threads have come to the end of this one.
    there: usize,
    lost: Option<MigrationError>,
    ended: bool,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values: as good as before, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Waits for stretch number `number`, from 1; `None` if there will be none.
    fn await_stretch(&self, number: u64) -> Option<MultifdEpoch> {
        let closed = |state: &mut State| !state.ended && (state.begun < number || state.stretch.is_none());
        let state = self.changed.wait_while(self.state(), closed).unwrap_or_else(PoisonError::into_inner);
        if state.ended { None } else { state.stretch }
    }
}

/// The destination's end of all multifd channels of a link.
pub(super) struct Multifd {
    gate: Arc<Gate>,
    channels: Vec<Arc<Channel>>,
    threads: Vec<JoinHandle<()>>,
}

impl Multifd {
    /// With a thread for each channel. One that loses its channel rings.
    pub fn begin(channels: Vec<Arc<Channel>>, intake: &Arc<Intake>, wake: &Arc<Wake>) -> std::io::Result<Self> {
        let state = State { begun: 0, stretch: None, there: 0, lost: None, ended: false };
        let gate = Arc::new(Gate { state: Mutex::new(state), changed: Condvar::new() });
        let mut multifd = Self { gate, channels, threads: Vec::new() };
        for (number, channel) in multifd.channels.iter().enumerate() {
            let receiver = PageReceiver {
                reader: MessageReader::new(channel.clone(), MULTIFD_BUFFER),
                gate: multifd.gate.clone(),
                decompressor: Decompressor::default(),
                intake: intake.clone(),
                ring: wake.clone(),
                wake: Wake::new()?,
            };
            let thread = thread::Builder::new()
                .name(format!("in-fd-{number}"))
                .spawn(crate::logging::carried(move || receiver.run()))?;
            multifd.threads.push(thread);
        }
        Ok(multifd)
    }

    /// The channels.
    pub fn channels(&self) -> &[Arc<Channel>] {
        &self.channels
    }

    /// Pages come on the channels from now on.
    pub fn open(&self, stretch: MultifdEpoch) -> Result<(), MigrationError> {
        if self.channels.is_empty() || self.gate.state().ended {
            return Err(MigrationError::OutOfOrder("spread"));
        }
        self.gate.change(|state| {
            state.begun += 1;
            (state.stretch, state.there) = (Some(stretch), 0);
        });
        Ok(())
    }

    /// Waits until every channel has said that this was all. Whoever wants to end that wait ends
    /// the channels.
    pub fn flush_multifd(&self) -> Result<(), MigrationError> {
        let waits = |state: &mut State| state.lost.is_none() && state.there < self.channels.len();
        let state = self.gate.state();
        let mut state = self.gate.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        state.stretch = None;
        state.lost.take().map_or(Ok(()), Err)
    }

    /// Why a channel is lost, if one is. Told once.
    pub fn take_lost(&self) -> Option<MigrationError> {
        self.gate.state().lost.take()
    }

    /// The same, unless the source closed it, which has the reason on the control channel.
    pub fn take_broken(&self) -> Option<MigrationError> {
        let closed =
            |error: &mut MigrationError| matches!(error, MigrationError::Link { source: ChannelError::Closed(_), .. });
        self.gate.state().lost.take_if(|error| !closed(error))
    }

    /// Ends the channels and waits for the threads: nothing is placed by them any more.
    pub fn close(&mut self) {
        self.gate.change(|state| state.ended = true);
        self.channels.iter().for_each(|channel| channel.shutdown());
        for thread in self.threads.drain(..) {
            // A panic was printed, and told at the gate.
            let _ = thread.join();
        }
    }
}

impl Drop for Multifd {
    fn drop(&mut self) {
        self.close();
    }
}

/// One channel's thread.
struct PageReceiver {
    reader: MessageReader,
    decompressor: Decompressor,
    gate: Arc<Gate>,
    intake: Arc<Intake>,
    /// The incoming thread's.
    ring: Arc<Wake>,
    /// Nobody rings it: whoever wants the thread to end shuts the channel down.
    wake: Wake,
}

impl Drop for PageReceiver {
    fn drop(&mut self) {
        if thread::panicking() {
            self.lose(MigrationError::ThreadDied("multifd"));
        }
    }
}

impl PageReceiver {
    fn run(mut self) {
        self.intake.guest().thread_begins(EngineThread::MultifdReceiver);
        use_short_slices();
        if let Err(error) = self.receive() {
            self.lose(error);
            // Whoever sends more of it hears of it, too.
            self.reader.channel().shutdown();
        }
    }

    fn receive(&mut self) -> Result<(), MigrationError> {
        for number in 1.. {
            let Some(stretch) = self.gate.await_stretch(number) else { break };
            while self.take(stretch)? {}
            self.gate.change(|state| state.there += 1);
        }
        Ok(())
    }

    /// Takes a message; whether more are to come.
    fn take(&mut self, stretch: MultifdEpoch) -> Result<bool, MigrationError> {
        let header = self.reader.header(&self.wake).map_err(lost)?;
        let fields = self.reader.fields_in_place(header).map_err(lost)?;
        let message = decode_multifd(header, fields).map_err(|error| lost(error.into()))?;
        match (message, stretch) {
            (Forward::Pages(run), MultifdEpoch::Precopy) => {
                self.intake.write(&mut self.reader, self.intake.known(run)?)?
            }
            (Forward::Pages(run), MultifdEpoch::Postcopy) => {
                self.intake.place(&mut self.reader, self.intake.known(run)?)?
            }
            (Forward::Compressed { run, codec, length }, stretch) => {
                let packed = Compressed { run: self.intake.known(run)?, codec, length };
                match stretch {
                    MultifdEpoch::Precopy => {
                        self.intake.write_compressed(&mut self.reader, &mut self.decompressor, packed)?
                    }
                    MultifdEpoch::Postcopy => {
                        self.intake.place_compressed(&mut self.reader, &mut self.decompressor, packed)?
                    }
                }
            }
            (Forward::Zeros(runs), MultifdEpoch::Precopy) => {
                runs.into_iter().try_for_each(|run| self.intake.write_zeros(self.intake.known(run)?))?;
            }
            (Forward::Zeros(runs), MultifdEpoch::Postcopy) => {
                runs.into_iter().try_for_each(|run| self.intake.place_zeros(self.intake.known(run)?))?;
            }
            // The decoder lets nothing else through.
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn lose(&self, error: MigrationError) {
        self.gate.change(|state| {
            state.lost.get_or_insert(error);
        });
        self.ring.ring();
    }
}

fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "source", source }
}
