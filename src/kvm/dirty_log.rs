//! KVM's log of the pages that vCPUs wrote.
//!
//! With manual protect, reading the log leaves it as it is, and KVM_CLEAR_DIRTY_LOG re-arms a range
//! just before it is sent; without, reading re-arms everything. `kvm-ioctls` knows only the second
//! way.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};

use super::{KvmError, ManualProtect, Vm};

nix::ioctl_write_ptr!(ioctl_get_dirty_log, KVMIO, 0x42, kvm_dirty_log);
nix::ioctl_readwrite!(ioctl_clear_dirty_log, KVMIO, 0xc0, kvm_clear_dirty_log);

/// Pages in one word of the log, and the alignment of what can be re-armed.
const WORD: u64 = 64;

/// Reads and re-arms the log of one VM's memory slots. The slots' lengths are fixed.
pub struct DirtyLog {
    manual: bool,
    slots: Vec<Slot>,
}

struct Slot {
    pages: u64,
    /// Kept between calls: the last read of the log happens while the guest stands still.
    words: Mutex<Vec<u64>>,
}

impl DirtyLog {
    /// For the slots of `vm` with these lengths, in pages.
    pub fn new(vm: &Vm, slots: impl IntoIterator<Item = u64>) -> Self {
        Self {
            manual: vm.capabilities().manual_protect != ManualProtect::No,
            slots: slots
                .into_iter()
                .map(|pages| Slot { pages, words: Mutex::new(vec![0; pages.div_ceil(WORD) as usize]) })
                .collect(),
        }
    }

    /// Shows every non-zero word of the slot's log to `each`: word `n` stands for the pages from
    /// `64 * n` on.
    pub fn read(&self, vm: &Vm, slot: usize, mut each: impl FnMut(usize, u64)) -> Result<(), KvmError> {
        let Some(known) = self.slots.get(slot) else {
            return Ok(());
        };
        let mut words = known.words.lock().unwrap_or_else(PoisonError::into_inner);
        let mut log = kvm_dirty_log { slot: slot as u32, ..Default::default() };
        log.__bindgen_anon_1.dirty_bitmap = words.as_mut_ptr().cast();
        // SAFETY: The buffer has a bit for every page of the slot, rounded up to whole words, which
        // is what the kernel writes; nobody else uses it, for the lock is held.
        unsafe { ioctl_get_dirty_log(vm.fd.as_raw_fd(), &log) }.map_err(KvmError::errno("KVM_GET_DIRTY_LOG"))?;
        for (index, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            each(index, *word);
        }
        Ok(())
    }

    /// Re-arms the pages from `64 * first_word` on whose bits are set in `words`. The range must
    /// begin at a multiple of 64 pages (it does) and end at one or with the slot. Without manual
    /// protect reading did it.
    pub fn clear(&self, vm: &Vm, slot: usize, first_word: u64, words: &mut [u64]) -> Result<(), KvmError> {
        let Some(known) = self.slots.get(slot).filter(|_| self.manual) else {
            return Ok(());
        };
        let first_page = first_word * WORD;
        let pages = (words.len() as u64 * WORD).min(known.pages.saturating_sub(first_page));
        if pages == 0 {
            return Ok(());
        }
        let mut clear =
            kvm_clear_dirty_log { slot: slot as u32, num_pages: pages as u32, first_page, ..Default::default() };
        clear.__bindgen_anon_1.dirty_bitmap = words.as_mut_ptr().cast();
        // SAFETY: The kernel reads `num_pages` bits, rounded up to whole words, and `words` has
        // them.
        unsafe { ioctl_clear_dirty_log(vm.fd.as_raw_fd(), &mut clear) }
            .map_err(KvmError::errno("KVM_CLEAR_DIRTY_LOG"))?;
        Ok(())
    }
}
