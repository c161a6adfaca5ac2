//! The serial port: a 16550A at 0x3f8 with interrupt 4, on `vm-superio`.

use std::convert::Infallible;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{Serial as Uart, SerialEvents, SerialState};

use super::{Action, Device, SavedDevice};
use crate::state::layout::{Count, Field, Type};
use crate::state::{StateError, StateReader, StateWriter};

/// Offset of the modem control register, whose loopback bit keeps input out.
const MODEM_CONTROL: u64 = 4;
/// Bytes in the receive FIFO of vm-superio's 16550.
const FIFO: usize = 64;

/// Raises the interrupt.
#[derive(Clone)]
struct Line(Arc<dyn Fn() + Send + Sync>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }
}

/// Tells the input side that there is room again.
#[derive(Clone)]
struct Room(Arc<dyn Fn() + Send + Sync>);

impl SerialEvents for Room {
    fn buffer_read(&self) {
        (self.0)();
    }
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {}
}

struct Port<W: Write> {
    /// `None` only while the state is being replaced.
    uart: Option<Uart<Line, Room, W>>,
    receiving: bool,
}

/// See the module's text. Output goes to `W`; input comes by [`Serial::receive`].
pub struct Serial<W: Write> {
    line: Line,
    room: Room,
    port: Mutex<Port<W>>,
}

impl<W: Write> Serial<W> {
    /// The first port.
    pub const PORT: u16 = 0x3f8;
    /// How many ports.
    pub const PORTS: u16 = 8;
    /// The interrupt line.
    pub const IRQ: u32 = 4;
    const VERSION: u32 = 1;

    /// A port that raises its interrupt by `interrupt`, writes to `output` and calls `room` when
    /// there may be room for input again. It receives nothing until [`Serial::set_receiving`].
    pub fn new(interrupt: Arc<dyn Fn() + Send + Sync>, output: W, room: Arc<dyn Fn() + Send + Sync>) -> Self {
        let line = Line(interrupt);
        let room = Room(room);
        let uart = Uart::with_events(line.clone(), room.clone(), output);
        Self { line, room, port: Mutex::new(Port { uart: Some(uart), receiving: false }) }
    }

    fn lock(&self) -> MutexGuard<'_, Port<W>> {
        self.port.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether input goes in. While the guest stands still it must not: the FIFO is being saved or
    /// loaded, or will be. When this returns, no byte goes in that should not.
    pub fn set_receiving(&self, receiving: bool) {
        self.lock().receiving = receiving;
        (self.room.0)();
    }

    /// Puts as much of `bytes` into the receive FIFO as fits, and returns how much that was.
    pub fn receive(&self, bytes: &[u8]) -> usize {
        let mut port = self.lock();
        if !port.receiving {
            return 0;
        }
        let Some(uart) = port.uart.as_mut() else {
            return 0;
        };
        // A full FIFO is an error to vm-superio; to us it is no room.
        uart.enqueue_raw_bytes(bytes).unwrap_or(0)
    }

    /// Replaces the registers and the receive FIFO. vm-superio raises the interrupt again if one is
    /// pending: one too many is harmless, one too few is not.
    fn replace(&self, state: &SerialState) {
        let mut port = self.lock();
        let Some(output) = port.uart.take().map(Uart::into_writer) else {
            return;
        };
        // Cannot fail: the FIFO's length was checked and raising an interrupt is infallible.
        port.uart = Uart::from_state(state, self.line.clone(), self.room.clone(), output).ok();
    }
}

impl<W: Write + Send> Device for Serial<W> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut port = self.lock();
        for (at, byte) in data.iter_mut().enumerate() {
            let uart = port.uart.as_mut();
            *byte = uart.map_or(0xff, |uart| uart.read((offset as usize + at) as u8));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let mut port = self.lock();
        for (at, byte) in data.iter().enumerate() {
            if let Some(uart) = port.uart.as_mut() {
                // The only error is one of the output, which has dropped the byte and said so.
                let _ = uart.write((offset as usize + at) as u8, *byte);
            }
        }
        if offset == MODEM_CONTROL {
            (self.room.0)();
        }
        Action::None
    }
}

impl<W: Write + Send> SavedDevice for Serial<W> {
    fn name(&self) -> &'static str {
        "serial"
    }

    fn version(&self) -> u32 {
        Self::VERSION
    }

    /// Layout, version 1: the registers DLL DLM IER IIR LCR LSR MCR MSR SCR, a byte each; u32 n, n
    /// bytes of the receive FIFO, n at most 64.
    fn save(&self) -> Vec<u8> {
        let port = self.lock();
        let state = port.uart.as_ref().map(Uart::state).unwrap_or_default();
        let mut writer = StateWriter::default();
        for register in [
            state.baud_divisor_low,
            state.baud_divisor_high,
            state.interrupt_enable,
            state.interrupt_identification,
            state.line_control,
            state.line_status,
            state.modem_control,
            state.modem_status,
            state.scratch,
        ] {
            writer.u8(register);
        }
        writer.u32(state.in_buffer.len() as u32);
        writer.bytes(&state.in_buffer);
        writer.finish()
    }

    fn layout(&self) -> Vec<Field> {
        let registers = ["DLL", "DLM", "IER", "IIR", "LCR", "LSR", "MCR", "MSR", "SCR"];
        let mut fields = registers.map(|register| Field(register, Type::U8)).to_vec();
        fields.push(Field("receive FIFO", Type::Bytes(Count::Prefix)));
        fields
    }

    fn load(&self, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = StateReader::new(self.name(), version, Self::VERSION, bytes)?;
        let mut state = SerialState {
            baud_divisor_low: reader.u8("DLL")?,
            baud_divisor_high: reader.u8("DLM")?,
            interrupt_enable: reader.u8("IER")?,
            interrupt_identification: reader.u8("IIR")?,
            line_control: reader.u8("LCR")?,
            line_status: reader.u8("LSR")?,
            modem_control: reader.u8("MCR")?,
            modem_status: reader.u8("MSR")?,
            scratch: reader.u8("SCR")?,
            in_buffer: Vec::new(),
        };
        let count = reader.count(1, "receive FIFO")?;
        if count > FIFO {
            return Err(reader.impossible("receive FIFO", count as u64));
        }
        state.in_buffer = reader.bytes(count, "receive FIFO")?.to_vec();
        reader.finish()?;
        self.replace(&state);
        Ok(())
    }

    fn reset(&self) {
        self.replace(&SerialState::default());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::state::testing::assert_layout;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicUsize>);
    impl Counter {
        fn bump(&self) -> Arc<dyn Fn() + Send + Sync> {
            let count = self.0.clone();
            Arc::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            })
        }
        fn get(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn serial() -> (Serial<Vec<u8>>, Counter, Counter) {
        let (interrupts, room) = (Counter::default(), Counter::default());
        let serial = Serial::new(interrupts.bump(), Vec::new(), room.bump());
        (serial, interrupts, room)
    }

    fn read(serial: &Serial<Vec<u8>>, offset: u64) -> u8 {
        let mut byte = [0];
        serial.read(offset, &mut byte);
        byte[0]
    }

    #[test]
    fn input_waits_until_the_guest_runs_and_while_the_fifo_is_full() {
        let (serial, _, room) = serial();
        assert_eq!(serial.receive(b"early"), 0);
        serial.set_receiving(true);
        assert_eq!(serial.receive(&[b'x'; 100]), FIFO);
        assert_eq!(serial.receive(b"y"), 0);
        let calls = room.get();
        assert_eq!(read(&serial, 0), b'x');
        assert_eq!(room.get(), calls + 1);
        assert_eq!(serial.receive(b"yz"), 1);
        serial.set_receiving(false);
        read(&serial, 0);
        assert_eq!(serial.receive(b"z"), 0);
    }

    #[test]
    fn registers_and_fifo_come_back_and_a_pending_interrupt_is_raised_again() {
        let (source, _, _) = serial();
        source.set_receiving(true);
        source.write(1, &[1]);
        source.write(7, &[0x5a]);
        source.receive(b"abc");
        let bytes = source.save();
        let (destination, interrupts, _) = serial();
        destination.load(1, &bytes).unwrap();
        assert_eq!(interrupts.get(), 1);
        assert_eq!(read(&destination, 7), 0x5a);
        assert_eq!(read(&destination, 0), b'a');
        assert_eq!(read(&destination, 0), b'b');
        assert_ne!(bytes, destination.save());
    }

    #[test]
    fn its_layout_is_what_is_read() {
        let (source, _, _) = serial();
        source.set_receiving(true);
        source.receive(b"abc");
        let bytes = source.save();
        let (destination, ..) = serial();
        assert_layout(&source.layout(), &bytes, || destination.load(1, &bytes).unwrap());
    }

    #[test]
    fn bad_states_are_refused_and_change_nothing() {
        let (serial, _, _) = serial();
        let good = serial.save();
        assert!(serial.load(2, &good).is_err());
        for length in 0..good.len() {
            assert!(serial.load(1, &good[..length]).is_err());
        }
        let mut long = good[..9].to_vec();
        long.extend_from_slice(&65u32.to_le_bytes());
        long.extend_from_slice(&[0; 65]);
        assert!(matches!(serial.load(1, &long), Err(StateError::Value { .. })));
        assert_eq!(serial.save(), good);
    }

    #[test]
    fn output_goes_out() {
        let (serial, _, _) = serial();
        serial.write(0, b"h");
        serial.write(0, b"i");
        let port = serial.lock();
        assert_eq!(port.uart.as_ref().unwrap().writer(), b"hi");
    }
}
