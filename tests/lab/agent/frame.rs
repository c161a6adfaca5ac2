//! Frames: a kind, a length, bytes.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// The longest frame that is read: orders and pieces of input are far shorter.
const LONGEST: usize = 1 << 20;

/// Writes a frame in one piece.
pub fn write(to: &mut impl Write, kind: u8, content: &[u8]) -> Result<()> {
    let length = u32::try_from(content.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    let mut bytes = Vec::with_capacity(5 + content.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(content);
    to.write_all(&bytes)
}

/// Reads a frame whole.
pub fn read(from: &mut impl Read) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST {
        return Err(Error::new(ErrorKind::InvalidData, format!("a frame of {length} bytes is too long")));
    }
    let mut content = vec![0; length];
    from.read_exact(&mut content)?;
    Ok((kind, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, b'o', b"hello").unwrap();
        assert_eq!(bytes, b"o\0\0\0\x05hello");
        assert_eq!(read(&mut bytes.as_slice()).unwrap(), (b'o', b"hello".to_vec()));
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_allocated() {
        let error = read(&mut b"i\xff\xff\xff\xff".as_slice()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
