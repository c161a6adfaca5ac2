//! [`Connection`]: what joins the source to one destination, from the connect to the end of the
//! link.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::Shared;
use super::demand::DemandServer;
use super::multifd::Senders;
use super::pacing::Pacer;
use super::scheduler::Hint;
use crate::channel::{Channel, Connector, MessageReader};
use crate::encoding::{Encoding, PageEncoding};
use crate::error::MigrationError;
use crate::guest::SourceGuest;
use crate::handshake::{self, Until};
use crate::host::thread::{Builder, JoinHandle};
use crate::wire::{ChannelKind, Features, Token};

/// Holds the longest reply, a piece of the received bitmap, so that a reply is only ever read
/// whole: a destination that stalls inside one must not keep the source from a cancel.
const REPLY_BUFFER: usize = 128 * 1024;

/// One link to the destination: its channels and the threads that serve those but the first. After
/// a break there is a new one.
pub(super) struct Connection {
    pub channel: Arc<Channel>,
    pub reader: MessageReader,
    pub demand: Arc<Channel>,
    server: Option<DemandServer>,
    serving: Option<JoinHandle<()>>,
    pub multifd: Option<Senders>,
    pub pacer: Arc<Pacer>,
}

impl Connection {
    /// Opens all channels of a migration, or of one that is to be joined again; also gives its
    /// token, and what the destination can do.
    pub fn open(
        connector: &dyn Connector,
        paused: Option<Token>,
        guest: &Arc<dyn SourceGuest>,
        shared: &Arc<Shared>,
        hint: &Arc<Hint>,
        encoding: Encoding,
    ) -> Result<(Token, Features, Self), MigrationError> {
        let recover = paused.is_some();
        let token = paused.map_or_else(handshake::draw_token, Ok)?;
        let until = Until { wake: &shared.wake, give_up: &|| shared.interrupted() };
        let open = |kind| handshake::open(connector, kind, recover, token, &until);
        let (control, features) = open(ChannelKind::Control)?;
        match encoding.contents {
            PageEncoding::Compressed(_) if !features.contains(Features::COMPRESSED) => {
                return Err(MigrationError::NoCompression);
            }
            PageEncoding::Xbzrle { .. } if !features.contains(Features::XBZRLE) => {
                return Err(MigrationError::NoXbzrle);
            }
            _ => {}
        }
        if shared.multifd.channels > 0 && !features.contains(Features::MULTIFD) {
            return Err(MigrationError::NoMultifd);
        }
        let spread: Vec<_> = (0..shared.multifd.channels)
            .map(|_| open(ChannelKind::Multifd).map(|(channel, _)| Arc::new(channel)))
            .collect::<Result<_, _>>()?;
        let (demand, _) = open(ChannelKind::Demand)?;
        let unable = !features.contains(Features::POSTCOPY);
        shared.no_postcopy.store(unable, Ordering::Release);
        demand.mark_interactive();
        let (channel, demand) = (Arc::new(control), Arc::new(demand));
        channel.keep_cached();
        spread.iter().for_each(|channel| channel.keep_cached());
        let paced = if shared.multifd.postcopy && !spread.is_empty() { spread.clone() } else { vec![channel.clone()] };
        let pacer = Arc::new(Pacer::new(paced));
        let multifd = match spread.is_empty() {
            true => None,
            false => Some(Senders::begin(spread, guest, shared, &pacer, spread_out(encoding))?),
        };
        let server = DemandServer::new(guest.clone(), shared.clone(), hint.clone(), demand.clone())?;
        let reader = MessageReader::new(channel.clone(), REPLY_BUFFER);
        Ok((token, features, Self { channel, reader, demand, server: Some(server), serving: None, multifd, pacer }))
    }

    /// Page requests are answered from now on.
    pub fn serve_demand(&mut self) -> std::io::Result<()> {
        if let Some(server) = self.server.take() {
            self.serving =
                Some(Builder::new().name("mig-demand".into()).spawn(crate::logging::carried(move || server.run()))?);
        }
        Ok(())
    }

    /// Ends the channels and waits for the threads.
    pub fn close(&mut self) {
        self.channel.shutdown();
        self.demand.shutdown();
        if let Some(multifd) = &mut self.multifd {
            multifd.close();
        }
        if let Some(thread) = self.serving.take() {
            // It ends at the end of its channel; a panic of it was told to the migration's thread.
            let _ = thread.join();
        }
    }
}

/// How pages go on multifd channels: changes go on the control channel only, where each page that
/// is sent passes.
fn spread_out(encoding: Encoding) -> Encoding {
    match encoding.contents {
        PageEncoding::Xbzrle { .. } => Encoding { contents: PageEncoding::Whole, ..encoding },
        _ => encoding,
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}
