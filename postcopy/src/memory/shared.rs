//! Files that guest RAM can be a mapping of, for two processes of one host. No unsafe code: the
//! mapping is [`super::RamBlock`]'s.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

/// Why a file cannot be RAM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The block is private memory.
    #[error("this side's RAM is not shared memory")]
    NotShared,
    /// Not memory, or of a kind that can run out when it is touched.
    #[error("it is not ordinary shared memory (a memfd)")]
    Kind,
    /// Too short or too long.
    #[error("it has {has} bytes where RAM has {wanted}")]
    Size {
        /// The file's length in bytes.
        has: u64,
        /// The block's.
        wanted: u64,
    },
    /// Who has the file could cut it off under a guest that runs.
    #[error("it is not sealed against shrinking")]
    Unsealed,
    /// The system.
    #[error("it cannot be mapped")]
    System(#[source] io::Error),
}

/// A new file for `bytes` bytes of RAM, whose size is for ever. A process that is handed it can
/// rely on that.
pub fn create(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Whether a touch of any of the `bytes` bytes of a mapping of the file can do no harm, now and
/// later.
pub(super) fn check(file: BorrowedFd<'_>, bytes: u64) -> Result<(), AdoptError> {
    let system = |error: nix::errno::Errno| AdoptError::System(error.into());
    let status = fstat(file.as_fd()).map_err(system)?;
    let is_file = SFlag::from_bits_truncate(status.st_mode).intersection(SFlag::S_IFMT) == SFlag::S_IFREG;
    // Huge pages of hugetlbfs can be used up by the time they are touched.
    if !is_file || fstatfs(file.as_fd()).map_err(system)?.filesystem_type() != TMPFS_MAGIC {
        return Err(AdoptError::Kind);
    }
    let has = u64::try_from(status.st_size).unwrap_or(0);
    if has != bytes {
        return Err(AdoptError::Size { has, wanted: bytes });
    }
    // Memory that cannot be sealed at all has no seals.
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map_err(|_| AdoptError::Unsealed)?;
    match SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
        true => Ok(()),
        false => Err(AdoptError::Unsealed),
    }
}

#[cfg(test)]
mod tests {
    use super::super::SharedRam;
    use super::*;
    use crate::ram::{BlockId, PageIndex, PageRun};

    fn first(block: &crate::memory::RamBlock, page: u64) -> u8 {
        let mut bytes = [0; crate::ram::PAGE_SIZE];
        block.read(PageIndex(page), &mut bytes);
        bytes[0]
    }

    #[test]
    fn memory_is_two_blocks_at_once_until_one_lets_go() {
        let (ours, file) = SharedRam::block("ram", 600).unwrap();
        let (theirs, _) = SharedRam::block("ram", 600).unwrap();
        ours.write(PageIndex(599), 0, &[7]);
        theirs.write(PageIndex(599), 0, &[9]);
        theirs.adopt(file.as_fd()).unwrap();
        assert_eq!(first(&theirs, 599), 7);
        theirs.write(PageIndex(1), 0, &[8]);
        assert_eq!(first(&ours, 1), 8);
        ours.disown().unwrap();
        assert_eq!((first(&ours, 1), first(&theirs, 1)), (0, 8));
        ours.write(PageIndex(1), 0, &[5]);
        assert_eq!(first(&theirs, 1), 8);
        // What was put there is given back as any other memory.
        ours.discard(PageRun::single(BlockId(0), PageIndex(1))).unwrap();
        assert_eq!(first(&ours, 1), 0);
    }

    #[test]
    fn what_could_end_the_process_is_refused_by_name() {
        let (block, _) = SharedRam::block("ram", 4).unwrap();
        let of = |bytes| create("ram", bytes).unwrap();
        for bytes in [0, 4096, 4 * 4096 - 1, 4 * 4096 + 1] {
            let refused = block.adopt(of(bytes).as_fd());
            assert!(matches!(refused, Err(AdoptError::Size { has, .. }) if has == bytes), "{refused:?}");
        }
        let unsealed = File::from(memfd_create("ram", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        unsealed.set_len(4 * 4096).unwrap();
        assert!(matches!(block.adopt(unsealed.as_fd()), Err(AdoptError::Unsealed)));
        // Growing is no danger, but alone it is no promise either.
        fcntl(&unsealed, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        assert!(matches!(block.adopt(unsealed.as_fd()), Err(AdoptError::Unsealed)));
        let unwritable = File::from(memfd_create("ram", MFdFlags::MFD_ALLOW_SEALING).unwrap());
        unwritable.set_len(4 * 4096).unwrap();
        fcntl(&unwritable, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(matches!(block.adopt(unwritable.as_fd()), Err(AdoptError::System(_))));
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        let on_disk = File::open("/proc/self/exe").unwrap();
        for other in [pipe, on_disk.into()] {
            assert!(matches!(block.adopt(other.as_fd()), Err(AdoptError::Kind)));
        }
        // And all that left the memory that was there in place.
        block.write(PageIndex(3), 0, &[1]);
        assert_eq!(first(&block, 3), 1);
        let private = crate::memory::AnonymousRam::block("ram", 4).unwrap();
        assert!(matches!(private.adopt(of(4 * 4096).as_fd()), Err(AdoptError::NotShared)));
    }

    #[test]
    fn memory_made_here_is_never_shorter() {
        let file = File::from(create("ram", 8192).unwrap());
        assert!(file.set_len(4096).is_err() && file.set_len(12288).is_err());
    }
}
