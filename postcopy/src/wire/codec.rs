//! Messages to bytes and back. A length is judged before anything is allocated for it.

use super::fragment::MAX_WORDS;
use super::message::BlockDescription;
use super::{Forward, MAX_COMPRESSED_PAGES, MAX_RUN_PAGES, Reply, Request, tag};
use crate::guest::Section;
use crate::ram::PAGE_SIZE;

mod fields;
#[cfg(test)]
mod tests;

use fields::{Reader, Writer};

/// Bytes that are no message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A message of this direction has no such number.
    #[error("message number {0} is unknown here")]
    Unknown(u16),
    /// The flags field is not zero.
    #[error("message '{name}' has unknown flags {flags:#x}", name = tag::name(*.tag))]
    Flags {
        /// The message.
        tag: u16,
        /// Its flags.
        flags: u16,
    },
    /// A message is longer than its kind may be.
    #[error("message '{name}' claims {length} bytes, more than the {most} allowed", name = tag::name(*.tag))]
    TooLong {
        /// The message.
        tag: u16,
        /// The claimed length in bytes.
        length: u32,
        /// The longest allowed.
        most: u32,
    },
    /// A message ends in the middle of a field.
    #[error("message '{name}' ends in the middle of a field", name = tag::name(*.0))]
    Short(u16),
    /// Bytes are left after the last field.
    #[error("message '{name}' has {rest} bytes too many", name = tag::name(*.tag))]
    Rest {
        /// The message.
        tag: u16,
        /// How many.
        rest: usize,
    },
    /// A field has a value that it cannot have.
    #[error("message '{name}' has an impossible {field}", name = tag::name(*.tag))]
    Field {
        /// The message.
        tag: u16,
        /// Which field.
        field: &'static str,
    },
}

/// What stands before every message: its number, flags (zero in version 1) and the length of what
/// follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's number.
    pub tag: u16,
    /// Bytes after the header, page contents included.
    pub length: u32,
}

impl Header {
    /// Length of the encoding in bytes.
    pub const LEN: usize = 8;

    /// The value. An unknown number or an impossible length is refused here, before the body is
    /// read.
    pub fn decode(bytes: [u8; Self::LEN]) -> Result<Self, DecodeError> {
        let [t0, t1, f0, f1, l0, l1, l2, l3] = bytes;
        let tag = u16::from_le_bytes([t0, t1]);
        let flags = u16::from_le_bytes([f0, f1]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let most = longest(tag).ok_or(DecodeError::Unknown(tag))?;
        if flags != 0 {
            return Err(DecodeError::Flags { tag, flags });
        }
        if length > most {
            return Err(DecodeError::TooLong { tag, length, most });
        }
        Ok(Self { tag, length })
    }

    /// How many bytes of the message are fields, to be read before decoding; the rest are page
    /// contents.
    pub fn fields(self) -> usize {
        let whole = self.length as usize;
        match self.tag {
            tag::PAGES | tag::XBZRLE => RUN_LEN.min(whole),
            tag::COMPRESSED => PACKED_LEN.min(whole),
            _ => whole,
        }
    }
}

/// Bytes of an encoded run.
const RUN_LEN: usize = 16;
/// Bytes of an encoded run and a codec's number.
const PACKED_LEN: usize = RUN_LEN + 4;
/// Bytes of the length that stands before what has changed of a page.
const CHANGES_HEAD: u32 = 2;
/// The most runs in one message.
const MAX_RUNS: u32 = 4096;

/// The most entries in a list of pairs, blocks or sections: empty ones cost more here than on the
/// wire.
const MAX_ENTRIES: usize = 4096;

/// The longest sentence for the other side's user, in bytes.
const SENTENCE: usize = 4096;

/// The longest body of each message.
pub(super) fn longest(tag: u16) -> Option<u32> {
    const KIB: u32 = 1024;
    Some(match tag {
        tag::CONFIGURATION | tag::RAM | tag::DESCRIPTION => 1024 * KIB,
        tag::PASS_BEGIN | tag::PASS_END | tag::BARRIER | tag::BARRIER_ACK | tag::SHARED_RAM => 4,
        tag::PAGES => RUN_LEN as u32 + MAX_RUN_PAGES * PAGE_SIZE as u32,
        tag::COMPRESSED => PACKED_LEN as u32 + MAX_COMPRESSED_PAGES * PAGE_SIZE as u32,
        tag::XBZRLE => RUN_LEN as u32 + MAX_COMPRESSED_PAGES * (CHANGES_HEAD + PAGE_SIZE as u32),
        tag::ZEROS | tag::REQUEST => MAX_RUNS * RUN_LEN as u32,
        tag::DISCARD | tag::RECEIVED => 16 + 8 * MAX_WORDS as u32,
        tag::STATE => 64 * KIB * KIB,
        tag::HAND_OVER => 1,
        tag::MAPPED => 32,
        tag::CANCEL | tag::NOT_STARTED => SENTENCE as u32,
        tag::LISTEN | tag::COMPLETE | tag::MULTIFD_START | tag::MULTIFD_FLUSH | tag::GOODBYE => 0,
        tag::ACCEPTED | tag::LISTENING | tag::READY | tag::RUNNING => 0,
        tag::ALL_RECEIVED | tag::RECEIVED_END => 0,
        _ => return None,
    })
}

impl Forward {
    /// The message's number.
    pub fn tag(&self) -> u16 {
        match self {
            Self::Configuration(_) => tag::CONFIGURATION,
            Self::Ram { .. } => tag::RAM,
            Self::Description(_) => tag::DESCRIPTION,
            Self::PassBegin(_) => tag::PASS_BEGIN,
            Self::PassEnd(_) => tag::PASS_END,
            Self::Pages(_) => tag::PAGES,
            Self::Zeros(_) => tag::ZEROS,
            Self::Discard(_) => tag::DISCARD,
            Self::Listen => tag::LISTEN,
            Self::State(_) => tag::STATE,
            Self::HandOver { .. } => tag::HAND_OVER,
            Self::Complete => tag::COMPLETE,
            Self::Cancel(_) => tag::CANCEL,
            Self::Barrier(_) => tag::BARRIER,
            Self::MultifdStart => tag::MULTIFD_START,
            Self::MultifdFlush => tag::MULTIFD_FLUSH,
            Self::Goodbye => tag::GOODBYE,
            Self::SharedRam(_) => tag::SHARED_RAM,
            Self::Compressed { .. } => tag::COMPRESSED,
            Self::Xbzrle { .. } => tag::XBZRLE,
        }
    }

    /// Appends header and fields to `out`. For [`Forward::Pages`], [`Forward::Compressed`] and
    /// [`Forward::Xbzrle`] the caller sends the contents after it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Writer::begin(out, self.tag());
        match self {
            Self::Configuration(pairs) => {
                body.u32(pairs.len() as u32);
                for (key, value) in pairs {
                    body.text(key);
                    body.text(value);
                }
            }
            Self::Ram { page_size, blocks } => {
                body.u32(*page_size);
                body.u32(blocks.len() as u32);
                for block in blocks {
                    body.text(&block.name);
                    body.u64(block.guest_address);
                    body.u64(block.pages);
                }
            }
            Self::Description(text) => body.bytes(text.as_bytes()),
            Self::Cancel(text) => body.sentence(text),
            Self::PassBegin(number) | Self::PassEnd(number) | Self::Barrier(number) | Self::SharedRam(number) => {
                body.u32(*number);
            }
            Self::Pages(run) => {
                body.run(*run);
                body.contents(run.bytes());
            }
            Self::Compressed { run, codec, length } => {
                body.run(*run);
                body.u32(codec.number());
                body.contents(*length as usize);
            }
            Self::Xbzrle { run, length } => {
                body.run(*run);
                body.contents(*length as usize);
            }
            Self::Zeros(runs) => runs.iter().for_each(|run| body.run(*run)),
            Self::Discard(fragment) => body.fragment(fragment),
            Self::State(sections) => {
                body.u32(sections.len() as u32);
                for section in sections {
                    body.text(&section.name);
                    body.u32(section.instance);
                    body.u32(section.version);
                    body.u32(section.bytes.len() as u32);
                    body.bytes(&section.bytes);
                }
            }
            Self::HandOver { running } => body.bytes(&[u8::from(*running)]),
            Self::Listen | Self::Complete | Self::MultifdStart | Self::MultifdFlush | Self::Goodbye => {}
        }
        body.end();
    }
}

impl Reply {
    /// The message's number.
    pub fn tag(&self) -> u16 {
        match self {
            Self::Accepted => tag::ACCEPTED,
            Self::Listening => tag::LISTENING,
            Self::Ready => tag::READY,
            Self::Running => tag::RUNNING,
            Self::NotStarted(_) => tag::NOT_STARTED,
            Self::AllReceived => tag::ALL_RECEIVED,
            Self::Received(_) => tag::RECEIVED,
            Self::ReceivedEnd => tag::RECEIVED_END,
            Self::BarrierAck(_) => tag::BARRIER_ACK,
        }
    }

    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Writer::begin(out, self.tag());
        match self {
            Self::NotStarted(text) => body.sentence(text),
            Self::Received(fragment) => body.fragment(fragment),
            Self::BarrierAck(number) => body.u32(*number),
            _ => {}
        }
        body.end();
    }
}

impl Request {
    /// Appends the message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Writer::begin(out, tag::REQUEST);
        self.0.iter().for_each(|run| body.run(*run));
        body.end();
    }
}

/// A message from the source on the control channel; `fields` are [`Header::fields`] bytes.
pub fn decode_forward(header: Header, fields: &[u8]) -> Result<Forward, DecodeError> {
    let mut body = Reader { tag: header.tag, rest: fields };
    let message = match header.tag {
        tag::CONFIGURATION => Forward::Configuration(body.list(8, |body| Ok((body.text()?, body.text()?)))?),
        tag::RAM => {
            let page_size = body.u32()?;
            let blocks = body.list(20, |body| {
                Ok(BlockDescription { name: body.text()?, guest_address: body.u64()?, pages: body.u64()? })
            })?;
            Forward::Ram { page_size, blocks }
        }
        tag::DESCRIPTION => Forward::Description(body.text_to_end()?),
        tag::CANCEL => Forward::Cancel(body.text_to_end()?),
        tag::PASS_BEGIN => Forward::PassBegin(body.u32()?),
        tag::PASS_END => Forward::PassEnd(body.u32()?),
        tag::PAGES => Forward::Pages(body.pages(header)?),
        tag::COMPRESSED => body.packed(header)?,
        tag::XBZRLE => body.delta(header)?,
        tag::ZEROS => Forward::Zeros(body.runs(u32::MAX)?),
        tag::DISCARD => Forward::Discard(body.fragment()?),
        tag::LISTEN => Forward::Listen,
        tag::STATE => Forward::State(body.list(16, |body| {
            let (name, instance, version) = (body.text()?, body.u32()?, body.u32()?);
            let length = body.u32()? as usize;
            Ok(Section { name, instance, version, bytes: body.take(length)?.to_vec() })
        })?),
        tag::HAND_OVER => match body.take(1)? {
            [0] => Forward::HandOver { running: false },
            [1] => Forward::HandOver { running: true },
            _ => return Err(DecodeError::Field { tag: header.tag, field: "run state" }),
        },
        tag::COMPLETE => Forward::Complete,
        tag::BARRIER => Forward::Barrier(body.u32()?),
        tag::MULTIFD_START => Forward::MultifdStart,
        tag::MULTIFD_FLUSH => Forward::MultifdFlush,
        tag::GOODBYE => Forward::Goodbye,
        tag::SHARED_RAM => Forward::SharedRam(body.u32()?),
        other => return Err(DecodeError::Unknown(other)),
    };
    body.end()?;
    Ok(message)
}

/// A message from the source on the demand channel: pages or zeros only.
pub fn decode_demand(header: Header, fields: &[u8]) -> Result<Forward, DecodeError> {
    match header.tag {
        tag::PAGES | tag::ZEROS => decode_forward(header, fields),
        other => Err(DecodeError::Unknown(other)),
    }
}

/// A message from the source on a multifd channel: pages, compressed or not, zeros, or the end of a
/// stretch of them.
pub fn decode_multifd(header: Header, fields: &[u8]) -> Result<Forward, DecodeError> {
    match header.tag {
        tag::PAGES | tag::COMPRESSED | tag::ZEROS | tag::MULTIFD_FLUSH => decode_forward(header, fields),
        other => Err(DecodeError::Unknown(other)),
    }
}

/// A message from the destination on the control channel.
pub fn decode_reply(header: Header, fields: &[u8]) -> Result<Reply, DecodeError> {
    let mut body = Reader { tag: header.tag, rest: fields };
    let message = match header.tag {
        tag::ACCEPTED => Reply::Accepted,
        tag::LISTENING => Reply::Listening,
        tag::READY => Reply::Ready,
        tag::RUNNING => Reply::Running,
        tag::NOT_STARTED => Reply::NotStarted(body.text_to_end()?),
        tag::ALL_RECEIVED => Reply::AllReceived,
        tag::RECEIVED => Reply::Received(body.fragment()?),
        tag::RECEIVED_END => Reply::ReceivedEnd,
        tag::BARRIER_ACK => Reply::BarrierAck(body.u32()?),
        other => return Err(DecodeError::Unknown(other)),
    };
    body.end()?;
    Ok(message)
}

impl Request {
    /// A message from the destination on the demand channel.
    pub fn decode(header: Header, fields: &[u8]) -> Result<Self, DecodeError> {
        if header.tag != tag::REQUEST {
            return Err(DecodeError::Unknown(header.tag));
        }
        let mut body = Reader { tag: header.tag, rest: fields };
        let runs = body.runs(MAX_RUN_PAGES)?;
        body.end()?;
        Ok(Self(runs))
    }
}
