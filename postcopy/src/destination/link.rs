//! The channels of one migration, accepted from whoever connects.

use std::sync::Arc;

use super::multifd::Multifd;
use crate::channel::{Acceptor, Channel, ChannelError, MessageReader, TlsError};
use crate::encoding::Unpacker;
use crate::error::{MigrationError, sentence};
use crate::greeting::{self, Until};
use crate::wire::{Answer, ChannelKind, Features, Hello, Token};

/// The control channel's read buffer, in bytes.
pub(super) const READ_BUFFER: usize = 1024 * 1024;

/// So many multifd channels a migration may have: each has a thread and a buffer here.
const MOST_MULTIFD: usize = u8::MAX as usize;

/// One connection to the source.
pub(super) struct Link {
    pub reader: MessageReader,
    pub unpacker: Unpacker,
    pub demand: Arc<Channel>,
    pub multifd: Multifd,
    pub token: Token,
}

impl Link {
    /// Waits for the source's channels; `rejoin` is the migration that is to be joined again, if one is. Strangers are
    /// turned away and do not disturb. `begin` takes the multifd channels.
    pub fn accept(
        acceptor: &dyn Acceptor,
        rejoin: Option<Token>,
        features: Features,
        until: &Until<'_>,
        begin: impl FnOnce(Vec<Arc<Channel>>) -> std::io::Result<Multifd>,
    ) -> Result<Self, MigrationError> {
        let (mut control, mut token): (Option<Channel>, Option<Token>) = (None, rejoin);
        let mut multifd = Vec::new();
        loop {
            let channel = match acceptor.accept(until.wake) {
                // Most often the fault loop that lost its old channel; only the end of the process ends this wait.
                Err(ChannelError::Interrupted) if !(until.give_up)() => continue,
                accepted => accepted.map_err(lost)?,
            };
            let hello = match greeting::hello(&channel, until) {
                Ok(hello) => hello,
                Err(error @ ChannelError::Interrupted) => return Err(lost(error)),
                Err(error) => {
                    turn_away(&channel, &sentence(&error), until);
                    continue;
                }
            };
            if control.as_ref().is_some_and(Channel::is_closed) {
                // A source that died between its two channels must not keep the next one out.
                (control, token) = (None, rejoin);
                multifd.clear();
            }
            let other = |control: &Channel| control.peer_certificate() != channel.peer_certificate();
            if control.as_ref().is_some_and(other) {
                turn_away(&channel, &TlsError::OtherCertificate.to_string(), until);
                continue;
            }
            if let Err(why) = fits(&hello, control.is_some(), token, rejoin.is_some(), multifd.len()) {
                turn_away(&channel, why, until);
                continue;
            }
            let version = hello.choose().map_err(|error| lost(error.into()))?;
            let welcome = Answer::Welcome { version, features };
            if let Err(error) = greeting::answer(&channel, &welcome, until) {
                log::warn!("a connection ended before it was answered: {}", sentence(&error));
                continue;
            }
            token = Some(hello.token);
            match hello.kind {
                ChannelKind::Control => control = Some(channel),
                ChannelKind::Multifd => multifd.push(Arc::new(channel)),
                ChannelKind::Demand => {
                    let Some(control) = control.take() else { continue };
                    let reader = MessageReader::new(Arc::new(control), READ_BUFFER);
                    channel.mark_interactive();
                    let multifd = begin(multifd)?;
                    let unpacker = Unpacker::default();
                    return Ok(Self { reader, unpacker, demand: Arc::new(channel), multifd, token: hello.token });
                }
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

fn turn_away(channel: &Channel, why: &str, until: &Until<'_>) {
    log::warn!("a connection was turned away: {why}");
    // A stranger that does not listen is no concern of ours.
    let _ = greeting::answer(channel, &Answer::Refused(why.to_owned()), until);
}

/// Whether the channel belongs to the migration that is awaited.
fn fits(
    hello: &Hello,
    has_control: bool,
    token: Option<Token>,
    rejoin: bool,
    multifd: usize,
) -> Result<(), &'static str> {
    if hello.recover != rejoin {
        return Err(if rejoin {
            "a paused migration is awaited here, not a new one"
        } else {
            "no paused migration is here"
        });
    }
    if token.is_some_and(|token| token != hello.token) {
        return Err("it belongs to another migration");
    }
    match (hello.kind, has_control) {
        (ChannelKind::Control, false) | (ChannelKind::Demand, true) => Ok(()),
        (ChannelKind::Multifd, true) if multifd < MOST_MULTIFD => Ok(()),
        (ChannelKind::Multifd, true) => Err("it has more multifd channels than a migration may have"),
        (ChannelKind::Control, true) => Err("there is a control channel already"),
        (ChannelKind::Demand | ChannelKind::Multifd, false) => Err("the control channel must come first"),
    }
}

fn lost(source: ChannelError) -> MigrationError {
    MigrationError::Link { peer: "source", source }
}
