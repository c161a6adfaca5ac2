//! The channels of one migration, accepted from whoever connects.

use std::sync::Arc;
use std::time::Duration;

use super::lobby::Lobby;
use super::multifd::Multifd;
use crate::channel::{Acceptor, Channel, ChannelError, MessageReader, TlsError};
use crate::encoding::Decompressor;
use crate::error::{MigrationError, sentence};
use crate::handshake::{self, Until};
use crate::host::Instant;
use crate::logging as log;
use crate::wire::{Answer, ChannelKind, Features, Hello, Token};

/// The control channel's read buffer, in bytes.
pub(super) const READ_BUFFER: usize = 1024 * 1024;

/// So many multifd channels a migration may have: each has a thread and a buffer here.
const MOST_MULTIFD: usize = u8::MAX as usize;

/// So many sources may have begun to open channels: who says a right hello may be a stranger all
/// the same, and the first whose channels are all here is the one.
const MOST_PARTIES: usize = 8;
/// For so long a source may take to its next channel.
const PARTY_PATIENCE: Duration = Duration::from_secs(10);

/// A source, not all of whose channels are here.
struct Party {
    token: Token,
    control: Channel,
    multifd: Vec<Arc<Channel>>,
    until: Instant,
}

/// One connection to the source.
pub(super) struct Connection {
    pub reader: MessageReader,
    pub decompressor: Decompressor,
    pub demand: Arc<Channel>,
    pub multifd: Multifd,
    pub token: Token,
}

impl Connection {
    /// Waits for the source's channels; `rejoin` is the migration that is to be joined again, if
    /// one is. Strangers are turned away and do not disturb. `begin` takes the multifd channels.
    pub fn accept(
        acceptor: &dyn Acceptor,
        recover: Option<Token>,
        features: Features,
        until: &Until<'_>,
        begin: impl FnOnce(Vec<Arc<Channel>>) -> std::io::Result<Multifd>,
    ) -> Result<Self, MigrationError> {
        let mut lobby = Lobby::new(acceptor);
        let mut parties: Vec<Party> = Vec::new();
        loop {
            // A source that died between two of its channels must not keep the next one out, nor
            // one that does not go on.
            let now = Instant::now();
            parties.retain(|party| party.until > now);
            let deadline = parties.iter().map(|party| party.until).min();
            let next = lobby.next(deadline, until).map_err(lost)?;
            parties.retain(|party| !party.control.is_closed());
            let Some((channel, hello)) = next else { continue };
            let at = parties.iter().position(|party| party.token == hello.token);
            let party = at.map(|at| &parties[at]);
            let other = |party: &Party| party.control.peer_certificate() != channel.peer_certificate();
            if party.is_some_and(other) {
                lobby.turn_away(&channel, &sentence(&TlsError::OtherCertificate));
                continue;
            }
            if let Err(why) = fits(&hello, party, recover, parties.is_empty()) {
                lobby.turn_away(&channel, why);
                continue;
            }
            let version = hello.choose().map_err(|error| lost(error.into()))?;
            let welcome = Answer::Welcome { version, features };
            if let Err(error) = handshake::answer(&channel, &welcome, until) {
                log::warn!("a connection ended before it was answered: {}", sentence(&error));
                continue;
            }
            match (hello.kind, at) {
                (ChannelKind::Control, _) => {
                    if parties.len() == MOST_PARTIES {
                        parties.remove(0);
                    }
                    let until = Instant::now() + PARTY_PATIENCE;
                    parties.push(Party { token: hello.token, control: channel, multifd: Vec::new(), until });
                }
                (ChannelKind::Multifd, Some(at)) => {
                    parties[at].multifd.push(Arc::new(channel));
                    parties[at].until = Instant::now() + PARTY_PATIENCE;
                }
                (ChannelKind::Demand, Some(at)) => {
                    let Party { control, multifd, token, .. } = parties.swap_remove(at);
                    let reader = MessageReader::new(Arc::new(control), READ_BUFFER);
                    channel.mark_interactive();
                    let multifd = begin(multifd)?;
                    let decompressor = Decompressor::default();
                    return Ok(Self { reader, decompressor, demand: Arc::new(channel), multifd, token });
                }
                // Turned away above.
                (ChannelKind::Multifd | ChannelKind::Demand, None) => {}
            }
        }
    }

    /// All channels.
    pub fn channels(&self) -> Vec<Arc<Channel>> {
        let two = [self.reader.channel().clone(), self.demand.clone()];
        two.into_iter().chain(self.multifd.channels().iter().cloned()).collect()
    }

    /// Ends all channels.
    pub fn close(&mut self) {
        self.reader.channel().shutdown();
        self.demand.shutdown();
        self.multifd.close();
    }
}

/// Whether the channel belongs to the migration that is awaited, or may be the first of one;
/// `party` is what has come of its migration.
fn fits(hello: &Hello, party: Option<&Party>, recover: Option<Token>, alone: bool) -> Result<(), &'static str> {
    if hello.recover != recover.is_some() {
        return Err(if hello.recover {
            "no paused migration is here"
        } else {
            "a paused migration is awaited here, not a new one"
        });
    }
    if recover.is_some_and(|token| token != hello.token) {
        return Err("it belongs to another migration");
    }
    match (hello.kind, party) {
        (ChannelKind::Control, None) | (ChannelKind::Demand, Some(_)) => Ok(()),
        (ChannelKind::Multifd, Some(party)) if party.multifd.len() < MOST_MULTIFD => Ok(()),
        (ChannelKind::Multifd, Some(_)) => Err("it has more multifd channels than a migration may have"),
        (ChannelKind::Control, Some(_)) => Err("there is a control channel already"),
        (ChannelKind::Demand | ChannelKind::Multifd, None) if alone => Err("the control channel must come first"),
        (ChannelKind::Demand | ChannelKind::Multifd, None) => Err("it belongs to another migration"),
    }
}

fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "source", source }
}
