//! [`Extract`]: RAM and saved states as files of a directory.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::decode::{Source, Stop};
use super::pages::{Block, Run};

/// What is copied at once, in bytes.
const PIECE: usize = 256 << 10;

/// Files in a directory. A guest's memory is nobody else's to read.
pub struct Extract {
    directory: PathBuf,
    names: BTreeSet<String>,
    blocks: Vec<File>,
    buffer: Vec<u8>,
}

impl Extract {
    /// Into this directory, which is made if it is not there.
    pub fn new(directory: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self { directory: directory.to_owned(), names: BTreeSet::new(), blocks: Vec::new(), buffer: vec![0; PIECE] })
    }

    /// A new file. The stream chose its name, so it is made harmless, and nothing that is there is
    /// followed or overwritten.
    fn create(&mut self, name: &str) -> io::Result<File> {
        let harmless = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let mut name: String = name.chars().map(harmless).collect();
        if name.starts_with('.') {
            name.replace_range(..1, "_");
        }
        while !self.names.insert(name.clone()) {
            name.push('_');
        }
        let path = self.directory.join(name);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| named(&error, &path))
    }

    /// A block's file, all of it zeros.
    pub fn block(&mut self, block: &Block, page_size: u64) -> io::Result<()> {
        let file = self.create(&format!("{}.ram", block.name))?;
        file.set_len(block.pages.saturating_mul(page_size))?;
        self.blocks.push(file);
        Ok(())
    }

    /// Contents of a run of pages.
    pub fn contents(&mut self, run: &Run, page_size: u64, source: &mut dyn Source) -> Result<(), Stop> {
        let (mut at, mut left) = (run.first * page_size, run.count * page_size);
        while left > 0 {
            let count = left.min(self.buffer.len() as u64) as usize;
            source.read(&mut self.buffer[..count])?;
            if let Some(file) = self.blocks.get(run.block) {
                file.write_all_at(&self.buffer[..count], at)?;
            }
            (at, left) = (at + count as u64, left - count as u64);
        }
        Ok(())
    }

    /// A page that may have had contents is zero.
    pub fn zero(&mut self, block: usize, page: u64, page_size: u64) -> io::Result<()> {
        self.buffer.fill(0);
        let Some(file) = self.blocks.get(block) else { return Ok(()) };
        let (mut at, mut left) = (page * page_size, page_size);
        while left > 0 {
            let count = left.min(self.buffer.len() as u64) as usize;
            file.write_all_at(&self.buffer[..count], at)?;
            (at, left) = (at + count as u64, left - count as u64);
        }
        Ok(())
    }

    /// A saved state: its bytes, and what they mean.
    pub fn state(&mut self, name: &str, instance: u64, bytes: &[u8], decoded: &Value) -> io::Result<()> {
        self.create(&format!("{name}.{instance}.state"))?.write_all(bytes)?;
        let mut json = serde_json::to_vec_pretty(decoded)?;
        json.push(b'\n');
        self.create(&format!("{name}.{instance}.json"))?.write_all(&json)
    }
}

fn named(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
