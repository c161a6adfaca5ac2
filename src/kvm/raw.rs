//! Kernel structures as bytes, for saved state.

use kvm_bindings::{
    kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};

/// A structure of the kernel's interface in which every byte belongs to a field.
///
/// # Safety
/// The type is `repr(C)`, has no padding that the compiler inserts, holds integers only (any bit
/// pattern is valid) and no pointers.
pub unsafe trait KernelStruct: Copy + 'static {}

macro_rules! kernel_structs {
    ($($name:ty: $size:literal),* $(,)?) => {$(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: The kernel's header pads this structure explicitly; the size is checked above.
        unsafe impl KernelStruct for $name {}
    )*};
}

kernel_structs! {
    kvm_regs: 144,
    kvm_sregs: 312,
    kvm_xcrs: 392,
    kvm_debugregs: 128,
    kvm_lapic_state: 1024,
    kvm_vcpu_events: 64,
    kvm_mp_state: 4,
    kvm_cpuid_entry2: 40,
    kvm_msr_entry: 16,
    kvm_pit_state2: 112,
    kvm_irqchip: 520,
}

/// The structure's bytes.
pub fn as_bytes<T: KernelStruct>(value: &T) -> &[u8] {
    // SAFETY: `T` has no padding (KernelStruct), so every byte of it is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The structure that `bytes` are; `None` if they are not exactly as many as it has.
pub fn from_bytes<T: KernelStruct>(bytes: &[u8]) -> Option<T> {
    if bytes.len() != size_of::<T>() {
        return None;
    }
    // SAFETY: The length was checked and any bit pattern is a valid `T` (KernelStruct).
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The structure with all bytes zero.
pub fn zeroed<T: KernelStruct>() -> T {
    // SAFETY: Any bit pattern is a valid `T` (KernelStruct).
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let regs = kvm_regs { rax: 0x0102_0304_0506_0708, rflags: 2, ..Default::default() };
        let bytes = as_bytes(&regs);
        assert_eq!(bytes[0], 8);
        assert_eq!(from_bytes::<kvm_regs>(bytes).unwrap(), regs);
        assert!(from_bytes::<kvm_regs>(&bytes[1..]).is_none());
    }
}
