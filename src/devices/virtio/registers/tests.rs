#![allow(clippy::unwrap_used)]

use super::*;

const KIND: Kind = Kind { id: 2, name: "virtio-toy", version: 1, queues: &[8, 64] };
const OUTSIDE: Outside = Outside { cause: 3, needs_reset: false, generation: 7 };

fn registers() -> Registers {
    Registers::new(KIND, 1 << 5 | 1 << 33)
}

fn take(registers: &mut Registers, features: u64) -> u32 {
    for half in 0..2 {
        registers.write(offset::DRIVER_FEATURES_SELECT, half);
        registers.write(offset::DRIVER_FEATURES, (features >> (32 * half)) as u32);
    }
    registers.write(offset::STATUS, 3);
    registers.write(offset::STATUS, 11);
    registers.read(offset::STATUS, OUTSIDE)
}

#[test]
fn a_driver_finds_out_what_it_has() {
    let mut registers = registers();
    let read = |registers: &Registers, at| registers.read(at, OUTSIDE);
    assert_eq!(read(&registers, offset::MAGIC).to_le_bytes(), *b"virt");
    assert_eq!((read(&registers, offset::VERSION), read(&registers, offset::DEVICE)), (2, 2));
    assert_eq!(read(&registers, offset::DEVICE_FEATURES), 1 << 5 | 1 << 28 | 1 << 29);
    registers.write(offset::DEVICE_FEATURES_SELECT, 1);
    assert_eq!(read(&registers, offset::DEVICE_FEATURES), 1 << 1 | 1);
    registers.write(offset::DEVICE_FEATURES_SELECT, 2);
    assert_eq!(read(&registers, offset::DEVICE_FEATURES), 0);
    registers.write(offset::QUEUE_SELECT, 1);
    assert_eq!(read(&registers, offset::QUEUE_SIZE_MAX), 64);
    registers.write(offset::QUEUE_SELECT, 2);
    assert_eq!(read(&registers, offset::QUEUE_SIZE_MAX), 0);
    assert_eq!((read(&registers, offset::INTERRUPT_STATUS), read(&registers, offset::GENERATION)), (3, 7));
    assert_eq!(read(&registers, offset::SHARED_MEMORY_LENGTH + 4), u32::MAX);
    let broken = Outside { needs_reset: true, ..OUTSIDE };
    assert_eq!(registers.read(offset::STATUS, broken), 64);
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    for (features, agreed) in
        [(VERSION_1, true), (VERSION_1 | 1 << 5, true), (1 << 5, false), (VERSION_1 | 1 << 6, false)]
    {
        let mut registers = registers();
        assert_eq!(take(&mut registers, features) & FEATURES_OK != 0, agreed, "{features:#x}");
        // Without agreement there is no work.
        assert_eq!(registers.write(offset::STATUS, 15) == Effect::Start, agreed);
        assert_eq!(registers.live(), agreed);
    }
}

#[test]
fn queues_are_set_up_before_the_driver_is_ready_and_not_later() {
    let mut registers = registers();
    take(&mut registers, VERSION_1 | EVENT_INDEX);
    registers.write(offset::QUEUE_SELECT, 1);
    registers.write(offset::QUEUE_SIZE, 32);
    for wrong in [0, 3, 128, 1 << 16 | 32] {
        registers.write(offset::QUEUE_SIZE, wrong);
    }
    registers.write(offset::QUEUE_DESCRIPTORS, 0x1000);
    registers.write(offset::QUEUE_DESCRIPTORS + 4, 1);
    registers.write(offset::QUEUE_AVAILABLE, 0x2000);
    registers.write(offset::QUEUE_USED, 0x3000);
    registers.write(offset::QUEUE_READY, 1);
    registers.write(offset::QUEUE_SELECT, 9);
    registers.write(offset::QUEUE_READY, 1);
    registers.write(offset::QUEUE_SELECT, 1);
    assert_eq!(registers.write(offset::STATUS, 15), Effect::Start);
    registers.write(offset::QUEUE_READY, 0);
    registers.write(offset::QUEUE_SIZE, 4);
    registers.write(offset::DRIVER_FEATURES, 0);
    // Ready twice is ready once.
    assert_eq!(registers.write(offset::STATUS, 15), Effect::None);
    let queues = registers.queues();
    assert!(!queues[0].ready && queues[1].ready);
    assert_eq!((queues[1].size, queues[1].max_size, queues[1].event_idx_enabled), (32, 64, true));
    assert_eq!((queues[1].desc_table, queues[1].avail_ring, queues[1].used_ring), (0x1_0000_1000, 0x2000, 0x3000));
    assert_eq!(registers.write(offset::STATUS, 0), Effect::Reset);
    assert!(!registers.queues()[1].ready && !registers.live() && registers.features() == 0);
}

#[test]
fn effects_are_for_others_to_carry_out() {
    let mut registers = registers();
    assert_eq!(registers.write(offset::QUEUE_NOTIFY, 5), Effect::Notify(5));
    assert_eq!(registers.write(offset::INTERRUPT_ACK, 2), Effect::Acknowledge(2));
    assert_eq!(registers.write(0x7f8, 2), Effect::None);
}

#[test]
fn they_come_back() {
    let mut registers = registers();
    take(&mut registers, VERSION_1 | 1 << 33);
    registers.write(offset::QUEUE_SIZE, 4);
    registers.write(offset::QUEUE_USED, 0x3000);
    registers.write(offset::QUEUE_READY, 1);
    registers.write(offset::STATUS, 15);
    let mut writer = StateWriter::default();
    registers.save(&mut writer);
    let bytes = writer.finish();

    let load = |bytes: &[u8], target: &mut Registers| {
        let mut reader = StateReader::new("toy", 1, 1, bytes).unwrap();
        target.load(&mut reader)
    };
    let mut other = self::registers();
    load(&bytes, &mut other).unwrap();
    assert_eq!(other.queues(), registers.queues());
    assert_eq!((other.features(), other.live()), (VERSION_1 | 1 << 33, true));

    // A host that offers less, a truncated state, an impossible size: all refused, with nothing
    // changed.
    let mut poor = Registers::new(KIND, 0);
    assert!(load(&bytes, &mut poor).is_err());
    for length in 0..bytes.len() {
        assert!(load(&bytes[..length], &mut poor).is_err());
    }
    let mut wrong = bytes.clone();
    wrong[28] = 3;
    assert!(load(&wrong, &mut self::registers()).is_err());
    assert!(!poor.live());
}
