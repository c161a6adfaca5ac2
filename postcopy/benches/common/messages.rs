//! The messages of which a migration sends many.

use whimbrel_postcopy::ram::{BlockId, PageIndex, PageRun};
use whimbrel_postcopy::wire::{DecodeError, Forward, Header, Request, decode_forward};

/// A run of a huge page's pages. Their contents never pass through the codec.
pub fn pages() -> Forward {
    Forward::Pages(run(4096, 512))
}

/// One page that a vCPU waits for.
pub fn request() -> Request {
    Request(vec![run(4711, 1)])
}

/// 64 runs of zero pages.
pub fn zeros() -> Forward {
    Forward::Zeros((0..64).map(|number| run(number * 100, 50)).collect())
}

/// The bytes of a message, as `encode` appends them.
pub fn encoded(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

/// Header and fields, as the engine reads them.
pub fn decode(bytes: &[u8]) -> Result<Forward, DecodeError> {
    let (header, fields) = split(bytes)?;
    decode_forward(header, fields)
}

/// The same for a [`Request`].
pub fn decode_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    let (header, fields) = split(bytes)?;
    Request::decode(header, fields)
}

fn split(bytes: &[u8]) -> Result<(Header, &[u8]), DecodeError> {
    let mut first = [0; Header::LEN];
    first.copy_from_slice(&bytes[..Header::LEN]);
    Ok((Header::decode(first)?, &bytes[Header::LEN..]))
}

fn run(start: u64, count: u32) -> PageRun {
    PageRun { block: BlockId(0), start: PageIndex(start), count }
}
