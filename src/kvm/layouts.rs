//! What the kernel's structures consist of, for those who take saved state apart
//! (`docs/analyze.md`). A test compares each with the kernel's own definition.

use crate::state::layout::Count::Fixed;
use crate::state::layout::Type::{Bytes, I64, List, Struct, U8, U16, U32, U64};
use crate::state::layout::{Field, Type};

/// `kvm_regs`.
pub const REGS: &[Field] = &[
    Field("rax", U64),
    Field("rbx", U64),
    Field("rcx", U64),
    Field("rdx", U64),
    Field("rsi", U64),
    Field("rdi", U64),
    Field("rsp", U64),
    Field("rbp", U64),
    Field("r8", U64),
    Field("r9", U64),
    Field("r10", U64),
    Field("r11", U64),
    Field("r12", U64),
    Field("r13", U64),
    Field("r14", U64),
    Field("r15", U64),
    Field("rip", U64),
    Field("rflags", U64),
];

const SEGMENT: Type = Struct(&[
    Field("base", U64),
    Field("limit", U32),
    Field("selector", U16),
    Field("type", U8),
    Field("present", U8),
    Field("dpl", U8),
    Field("db", U8),
    Field("s", U8),
    Field("l", U8),
    Field("g", U8),
    Field("avl", U8),
    Field("unusable", U8),
    Field("padding", U8),
]);

const TABLE: Type = Struct(&[Field("base", U64), Field("limit", U16), Field("padding", Bytes(Fixed(6)))]);

/// `kvm_sregs`.
pub const SREGS: &[Field] = &[
    Field("cs", SEGMENT),
    Field("ds", SEGMENT),
    Field("es", SEGMENT),
    Field("fs", SEGMENT),
    Field("gs", SEGMENT),
    Field("ss", SEGMENT),
    Field("tr", SEGMENT),
    Field("ldt", SEGMENT),
    Field("gdt", TABLE),
    Field("idt", TABLE),
    Field("cr0", U64),
    Field("cr2", U64),
    Field("cr3", U64),
    Field("cr4", U64),
    Field("cr8", U64),
    Field("efer", U64),
    Field("apic_base", U64),
    Field("interrupt_bitmap", List(Fixed(4), &U64)),
];

const XCR: Type = Struct(&[Field("xcr", U32), Field("reserved", U32), Field("value", U64)]);

/// `kvm_xcrs`.
pub const XCRS: &[Field] = &[
    Field("nr_xcrs", U32),
    Field("flags", U32),
    Field("xcrs", List(Fixed(16), &XCR)),
    Field("padding", Bytes(Fixed(128))),
];

/// `kvm_debugregs`.
pub const DEBUGREGS: &[Field] = &[
    Field("db", List(Fixed(4), &U64)),
    Field("dr6", U64),
    Field("dr7", U64),
    Field("flags", U64),
    Field("reserved", Bytes(Fixed(72))),
];

/// `kvm_lapic_state`: a register every 16 bytes, of which 4 count.
pub const LAPIC: &[Field] = &[Field("regs", Bytes(Fixed(1024)))];

/// `kvm_vcpu_events`.
pub const EVENTS: &[Field] = &[
    Field(
        "exception",
        Struct(&[
            Field("injected", U8),
            Field("nr", U8),
            Field("has_error_code", U8),
            Field("pending", U8),
            Field("error_code", U32),
        ]),
    ),
    Field("interrupt", Struct(&[Field("injected", U8), Field("nr", U8), Field("soft", U8), Field("shadow", U8)])),
    Field("nmi", Struct(&[Field("injected", U8), Field("pending", U8), Field("masked", U8), Field("pad", U8)])),
    Field("sipi_vector", U32),
    Field("flags", U32),
    Field(
        "smi",
        Struct(&[Field("smm", U8), Field("pending", U8), Field("smm_inside_nmi", U8), Field("latched_init", U8)]),
    ),
    Field("triple_fault", Struct(&[Field("pending", U8)])),
    Field("reserved", Bytes(Fixed(26))),
    Field("exception_has_payload", U8),
    Field("exception_payload", U64),
];

/// `kvm_cpuid_entry2`.
pub const CPUID_ENTRY: &[Field] = &[
    Field("function", U32),
    Field("index", U32),
    Field("flags", U32),
    Field("eax", U32),
    Field("ebx", U32),
    Field("ecx", U32),
    Field("edx", U32),
    Field("padding", Bytes(Fixed(12))),
];

/// `kvm_msr_entry`.
pub const MSR_ENTRY: &[Field] = &[Field("index", U32), Field("reserved", U32), Field("data", U64)];

const CHANNEL: Type = Struct(&[
    Field("count", U32),
    Field("latched_count", U16),
    Field("count_latched", U8),
    Field("status_latched", U8),
    Field("status", U8),
    Field("read_state", U8),
    Field("write_state", U8),
    Field("write_latch", U8),
    Field("rw_mode", U8),
    Field("mode", U8),
    Field("bcd", U8),
    Field("gate", U8),
    Field("count_load_time", I64),
]);

/// `kvm_pit_state2`.
pub const PIT: &[Field] =
    &[Field("channels", List(Fixed(3), &CHANNEL)), Field("flags", U32), Field("reserved", Bytes(Fixed(36)))];

/// `kvm_irqchip` with a `kvm_pic_state`.
pub const PIC: &[Field] = &[
    Field("chip_id", U32),
    Field("pad", U32),
    Field("last_irr", U8),
    Field("irr", U8),
    Field("imr", U8),
    Field("isr", U8),
    Field("priority_add", U8),
    Field("irq_base", U8),
    Field("read_reg_select", U8),
    Field("poll", U8),
    Field("special_mask", U8),
    Field("init_state", U8),
    Field("auto_eoi", U8),
    Field("rotate_on_auto_eoi", U8),
    Field("special_fully_nested_mode", U8),
    Field("init4", U8),
    Field("elcr", U8),
    Field("elcr_mask", U8),
    Field("unused", Bytes(Fixed(496))),
];

/// `kvm_irqchip` with a `kvm_ioapic_state`.
pub const IOAPIC: &[Field] = &[
    Field("chip_id", U32),
    Field("pad", U32),
    Field("base_address", U64),
    Field("ioregsel", U32),
    Field("id", U32),
    Field("irr", U32),
    Field("pad2", U32),
    Field("redirtbl", List(Fixed(24), &U64)),
    Field("unused", Bytes(Fixed(296))),
];

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use kvm_bindings::{
        kvm_cpuid_entry2, kvm_debugregs, kvm_ioapic_state, kvm_lapic_state, kvm_msr_entry, kvm_pic_state,
        kvm_pit_channel_state, kvm_pit_state2, kvm_regs, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
    };

    use super::*;

    fn width(kind: Type) -> usize {
        match kind {
            U8 => 1,
            U16 => 2,
            U32 => 4,
            U64 | I64 => 8,
            Bytes(Fixed(count)) => count as usize,
            Struct(fields) => fields.iter().map(|field| width(field.1)).sum(),
            List(Fixed(count), of) => count as usize * width(*of),
            other => panic!("{other:?} has no fixed width"),
        }
    }

    /// Where the field `name` begins.
    fn offset(fields: &[Field], name: &str) -> usize {
        let at = fields.iter().position(|field| field.0 == name).unwrap_or_else(|| panic!("no {name}"));
        fields[..at].iter().map(|field| width(field.1)).sum()
    }

    fn fields(kind: Type) -> &'static [Field] {
        match kind {
            Struct(fields) => fields,
            other => panic!("{other:?}"),
        }
    }

    macro_rules! same {
        ($kernel:ty, $layout:expr, $start:expr, $($field:ident)*) => {$(
            let here = offset($layout, stringify!($field).trim_end_matches('_')) - $start;
            assert_eq!(here, offset_of!($kernel, $field), concat!(stringify!($kernel), ".", stringify!($field)));
        )*};
    }

    #[test]
    fn every_field_is_where_the_kernel_has_it() {
        same!(kvm_regs, REGS, 0, rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags);
        same!(kvm_sregs, SREGS, 0, cs ds es fs gs ss tr ldt gdt idt cr0 cr2 cr3 cr4 cr8 efer apic_base interrupt_bitmap);
        same!(kvm_segment, fields(SEGMENT), 0, base limit selector type_ present dpl db s l g avl unusable padding);
        same!(kvm_xcrs, XCRS, 0, nr_xcrs flags xcrs padding);
        same!(kvm_xcr, fields(XCR), 0, xcr reserved value);
        same!(kvm_debugregs, DEBUGREGS, 0, db dr6 dr7 flags reserved);
        same!(kvm_lapic_state, LAPIC, 0, regs);
        same!(kvm_vcpu_events, EVENTS, 0, exception interrupt nmi sipi_vector flags smi triple_fault reserved
              exception_has_payload exception_payload);
        same!(kvm_cpuid_entry2, CPUID_ENTRY, 0, function index flags eax ebx ecx edx padding);
        same!(kvm_msr_entry, MSR_ENTRY, 0, index reserved data);
        same!(kvm_pit_state2, PIT, 0, channels flags reserved);
        same!(kvm_pit_channel_state, fields(CHANNEL), 0, count latched_count count_latched status_latched status read_state
              write_state write_latch rw_mode mode bcd gate count_load_time);
        same!(kvm_pic_state, PIC, 8, last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask init_state
              auto_eoi rotate_on_auto_eoi special_fully_nested_mode init4 elcr elcr_mask);
        same!(kvm_ioapic_state, IOAPIC, 8, base_address ioregsel id irr redirtbl);
    }

    #[test]
    fn every_byte_belongs_to_a_field() {
        for (fields, bytes) in [
            (REGS, size_of::<kvm_regs>()),
            (SREGS, size_of::<kvm_sregs>()),
            (XCRS, size_of::<kvm_xcrs>()),
            (DEBUGREGS, size_of::<kvm_debugregs>()),
            (LAPIC, size_of::<kvm_lapic_state>()),
            (EVENTS, size_of::<kvm_vcpu_events>()),
            (CPUID_ENTRY, size_of::<kvm_cpuid_entry2>()),
            (MSR_ENTRY, size_of::<kvm_msr_entry>()),
            (PIT, size_of::<kvm_pit_state2>()),
            (PIC, size_of::<kvm_bindings::kvm_irqchip>()),
            (IOAPIC, size_of::<kvm_bindings::kvm_irqchip>()),
        ] {
            assert_eq!(width(Struct(fields)), bytes, "{}", fields[0].0);
        }
    }
}
