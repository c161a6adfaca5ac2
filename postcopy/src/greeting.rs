//! Opening a channel: hello and answer, on both sides.

use std::time::Duration;

use crate::channel::{Channel, ChannelError, Connector, Wake};
use crate::error::MigrationError;
use crate::wire::{Answer, ChannelKind, Features, Hello, Token, VERSION_MAX, VERSION_MIN};

/// How long the other side may take to say its first bytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads exactly `bytes.len()` first bytes of a channel. `interrupted` is asked whenever `wake` rings.
fn read_first(
    channel: &Channel,
    bytes: &mut [u8],
    wake: &Wake,
    interrupted: &dyn Fn() -> bool,
    patience: Duration,
) -> Result<(), ChannelError> {
    let mut done = 0;
    let deadline = std::time::Instant::now() + patience;
    while done < bytes.len() {
        match channel.receive(&mut bytes[done..]) {
            Ok(0) => return Err(ChannelError::Closed(Some("hello"))),
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(std::time::Instant::now());
                let ready = channel.wait(false, wake, Some(left))?;
                if ready.woken {
                    // Most who ring mean something else: new limits, a rejoin, the fault loop.
                    wake.clear();
                    if interrupted() {
                        return Err(ChannelError::Interrupted);
                    }
                }
                if !ready.readable && left.is_zero() {
                    return Err(ChannelError::Io(std::io::ErrorKind::TimedOut.into()));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Source: opens one channel of the migration `token`.
pub(crate) fn open(
    connector: &dyn Connector,
    kind: ChannelKind,
    recover: bool,
    token: Token,
    wake: &Wake,
    interrupted: &dyn Fn() -> bool,
) -> Result<(Channel, Features), MigrationError> {
    let channel = connector.connect().map_err(MigrationError::Connect)?;
    let hello = Hello { versions: (VERSION_MIN, VERSION_MAX), kind, recover, token, features: Features::POSTCOPY };
    let exchange = || {
        channel.send(&hello.encode(), wake, interrupted)?;
        let mut fixed = [0; Answer::LEN];
        read_first(&channel, &mut fixed, wake, interrupted, PATIENCE)?;
        let mut text = vec![0; Answer::text_len(&fixed)?];
        read_first(&channel, &mut text, wake, interrupted, PATIENCE)?;
        match Answer::decode(&fixed, &text)? {
            Answer::Welcome { features, .. } => Ok(features),
            Answer::Refused(why) => Err(ChannelError::Refused(why)),
        }
    };
    let features = exchange().map_err(|source| MigrationError::Link { peer: "destination", source })?;
    Ok((channel, features))
}

/// Destination: the hello of a channel that was just accepted.
pub(crate) fn hello(channel: &Channel, wake: &Wake, interrupted: &dyn Fn() -> bool) -> Result<Hello, ChannelError> {
    let mut bytes = [0; Hello::LEN];
    // Whoever connects speaks first; a stranger that stays silent must not keep the real source waiting for long.
    read_first(channel, &mut bytes, wake, interrupted, PATIENCE / 5)?;
    let hello = Hello::decode(&bytes)?;
    hello.choose()?;
    Ok(hello)
}

/// Destination: answers a hello.
pub(crate) fn answer(channel: &Channel, answer: &Answer, wake: &Wake) -> Result<(), ChannelError> {
    channel.send(&answer.encode(), wake, &|| true)
}

/// A token nobody can guess.
pub(crate) fn draw_token() -> std::io::Result<Token> {
    use std::io::Read;
    let mut token = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(Token(token))
}
