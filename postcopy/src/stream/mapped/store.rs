//! [`Store`]: a file with mapped RAM on its way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FallocateFlags, fallocate};

use super::Access;
use super::layout::{INTRODUCTION, Plan};
use super::staging::Staging;
use crate::bitmap::RamBitmap;
use crate::ram::{BlockId, PAGE_SIZE, PageRun};
use crate::wire::{Forward, Hello};

/// Pages wait for their neighbours up to so many bytes: what is written at once.
const STAGED: usize = 4 << 20;

/// Takes a guest: pages as often as they come, then the state, then the end. The file is no guest's
/// before that.
pub(super) struct Store {
    file: File,
    /// Where in the file the hello stands.
    base: u64,
    plan: Plan,
    /// The pages that are in the file and not zero.
    present: RamBitmap,
    staging: Staging,
    /// The pages in `staging`, which go where they belong when others come.
    staged: Option<PageRun>,
    /// What stands behind the pages.
    tail: Vec<u8>,
}

impl Store {
    /// In a file that ends at `base`, with these messages and blocks of so many pages. Whatever was
    /// behind `base` before is gone when this returns, also if the host dies then.
    pub fn begin(
        file: File,
        base: u64,
        access: Access,
        hello: &Hello,
        introduction: &[Forward],
        pages: &[u64],
    ) -> io::Result<Self> {
        let mut messages = Vec::new();
        introduction.iter().for_each(|message| message.encode(&mut messages));
        let plan = Plan::new(base, messages.len() as u64, pages).ok_or(io::ErrorKind::FileTooLarge)?;
        let mut front = hello.encode().to_vec();
        front.extend(plan.mapped(None).encode());
        front.extend(messages);
        plan.rows.iter().for_each(|row| row.encode(&mut front));
        file.write_all_at(&front, base)?;
        file.sync_all()?;
        access.set(&file)?;
        let present = RamBitmap::with_pages(pages.iter().copied());
        Ok(Self { file, base, plan, present, staging: Staging::new(STAGED), staged: None, tail: Vec::new() })
    }

    /// Takes pages; `contents` fills in the bytes that it is given, piece by piece. Its error, or
    /// the file's.
    pub fn pages<E: From<io::Error>>(
        &mut self,
        run: PageRun,
        mut contents: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.present.holds(run) {
            return Err(beyond(run).into());
        }
        for piece in run.pieces((STAGED / PAGE_SIZE) as u32) {
            let begin = self.room(piece)?;
            contents(&mut self.staging.as_mut()[begin..begin + piece.bytes()])?;
            self.present.set_run(piece);
        }
        Ok(())
    }

    /// Where in the staging the piece goes.
    fn room(&mut self, piece: PageRun) -> io::Result<usize> {
        if let Some(staged) = &mut self.staged
            && (staged.block, staged.end()) == (piece.block, piece.start)
            && staged.bytes() + piece.bytes() <= STAGED
        {
            let begin = staged.bytes();
            staged.count += piece.count;
            return Ok(begin);
        }
        self.flush()?;
        self.staged = Some(piece);
        Ok(0)
    }

    /// Takes pages that are all zero.
    pub fn zeros(&mut self, run: PageRun) -> io::Result<()> {
        if !self.present.holds(run) {
            return Err(beyond(run));
        }
        let cleared =
            self.present.block(run.block).map_or(0, |block| block.clear_range(run.start, u64::from(run.count)));
        if cleared > 0 {
            // What they held may be waiting still.
            self.flush()?;
            let [at, length] = [self.place(run), run.bytes() as u64].map(|bytes| i64::try_from(bytes).unwrap_or(0));
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // Where a file system has no holes the bitmap says it alone.
            let _ = fallocate(&self.file, hole, at, length);
        }
        Ok(())
    }

    /// Takes what stands behind the pages.
    pub fn keep(&mut self, message: &Forward) {
        message.encode(&mut self.tail);
    }

    /// Writes the pages that wait.
    pub fn flush(&mut self) -> io::Result<()> {
        match self.staged.take() {
            Some(run) => self.file.write_all_at(&self.staging.as_ref()[..run.bytes()], self.place(run)),
            None => Ok(()),
        }
    }

    /// Where in the file the run begins.
    fn place(&self, run: PageRun) -> u64 {
        let area = self.plan.rows.get(usize::from(run.block.0)).map_or(0, |row| row.area);
        self.base + area + run.start.0 * PAGE_SIZE as u64
    }

    /// Makes a guest of it: all is safe when this returns.
    pub fn commit(mut self) -> io::Result<()> {
        self.flush()?;
        Access::Cached.set(&self.file)?;
        for (row, (_, bitmap)) in self.plan.rows.iter().zip(self.present.blocks()) {
            let words: Vec<u8> = (0..bitmap.len_words()).flat_map(|word| bitmap.word(word).to_le_bytes()).collect();
            self.file.write_all_at(&words, self.base + row.bitmap)?;
        }
        self.file.write_all_at(&self.tail, self.base + self.plan.tail)?;
        // Only what is safe may be called whole.
        self.file.sync_all()?;
        let mapped = self.plan.mapped(Some(self.tail.len() as u64)).encode();
        self.file.write_all_at(&mapped, self.base + INTRODUCTION - mapped.len() as u64)?;
        self.file.sync_all()
    }
}

fn beyond(PageRun { block: BlockId(block), start, count }: PageRun) -> io::Error {
    io::Error::other(format!("block {block} has no pages {}+{count}", start.0))
}
