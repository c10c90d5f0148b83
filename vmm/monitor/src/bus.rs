//! What answers the guest's port and memory-mapped accesses.

use std::convert::Infallible;

use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

use crate::acpi;
use crate::config::BufferConfig;
use crate::console::Console;
use crate::device::RegisterPage;
use crate::dma::{Dma, DmaRegisters};
use crate::error::VmError;
use crate::foreign::ForeignRegisters;
use crate::layout;
use crate::window::Window;

/// What an access asks of the vCPU loop beyond its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Nothing: go on.
    Continue,
    /// The agent rang.
    Doorbell,
    /// The driver rang the device, and the host waits for that.
    DeviceDoorbell,
    /// Reset the machine.
    Reset,
    /// Turn it off.
    PowerOff,
}

/// The serial line has no interrupt: the kernel's console polls it.
pub(crate) struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

pub(crate) type Line = Serial<NoInterrupt, NoEvents, Console>;

/// All devices of the machine.
pub(crate) struct Bus {
    serial: Line,
    pub(crate) registers: RegisterPage,
    pub(crate) dma: Dma,
    /// The register page, if the device is not the project's own.
    pub(crate) foreign: Option<ForeignRegisters>,
    /// Whether the driver's next ring at the device is to stop the guest.
    pub(crate) stop_at_device: bool,
}

/// What the devices of the machine remember.
#[derive(Clone, PartialEq)]
pub(crate) struct DeviceState {
    serial: SerialState,
    registers: RegisterPage,
    dma: DmaRegisters,
}

impl DeviceState {
    /// What the devices remember of a guest that has used the serial line alone, if
    /// this is such a state.
    pub(crate) fn serial_alone(self) -> Option<SerialState> {
        let unused = self.registers.is_unused() && self.dma == DmaRegisters::default();
        unused.then_some(self.serial)
    }
}

impl Bus {
    /// What the devices remember now.
    pub(crate) fn state(&self) -> DeviceState {
        DeviceState {
            serial: self.serial.state(),
            registers: self.registers.clone(),
            dma: self.dma.registers(),
        }
    }

    /// Makes the devices remember `state`; the serial line goes on to `console`.
    pub(crate) fn restore(
        &mut self,
        state: &DeviceState,
        console: &Console,
    ) -> Result<(), VmError> {
        self.restore_serial(&state.serial, console)?;
        self.registers = state.registers.clone();
        self.dma.set_registers(state.dma);
        self.stop_at_device = false;
        Ok(())
    }

    /// Gives the serial line its registers back; it goes on to `console`.
    pub(crate) fn restore_serial(
        &mut self,
        state: &SerialState,
        console: &Console,
    ) -> Result<(), VmError> {
        self.serial = serial(state, console)?;
        Ok(())
    }

    pub(crate) fn new(
        console: Console,
        windows: &[Window],
        buffers: &[BufferConfig],
        dma: Dma,
    ) -> Self {
        Self {
            serial: Serial::new(NoInterrupt, console),
            registers: RegisterPage::new(windows, buffers),
            dma,
            foreign: None,
            stop_at_device: false,
        }
    }

    /// Takes an `out` of 1, 2 or 4 bytes.
    pub(crate) fn port_write(&mut self, port: u16, data: &[u8]) -> Request {
        match (port, data) {
            (wire::DOORBELL_PORT, [_, _, _, _]) => return Request::Doorbell,
            (layout::RESET_PORT, [acpi::RESET_VALUE]) | (layout::KEYBOARD_PORT, [0xfe]) => {
                return Request::Reset;
            }
            (layout::SLEEP_CONTROL_PORT, [acpi::SLEEP_S5]) => return Request::PowerOff,
            _ => {}
        }
        if let (Some(register), [value]) = (serial_register(port), data) {
            // Only the infallible trigger and console could fail it.
            let _ = self.serial.write(register, *value);
        }
        Request::Continue
    }

    /// Answers an `in`; a port that nobody has reads as all ones.
    pub(crate) fn port_read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match (serial_register(port), data) {
            (Some(register), [value]) => *value = self.serial.read(register),
            (None, [value])
                if matches!(
                    port,
                    layout::SLEEP_STATUS_PORT | layout::SLEEP_CONTROL_PORT | layout::KEYBOARD_PORT
                ) =>
            {
                *value = 0;
            }
            _ => {}
        }
    }

    /// Answers a load from memory that no slot backs.
    pub(crate) fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        match (register_offset(gpa), &self.foreign) {
            (Some(offset), Some(foreign)) => foreign.read(offset, data),
            (Some(offset), None) => {
                self.registers.read(offset, data);
                self.dma.read(offset, data);
            }
            (None, _) => data.fill(0xff),
        }
    }

    /// Takes a store to memory that no slot lets the guest write.
    pub(crate) fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> Request {
        let Some(offset) = register_offset(gpa) else {
            return Request::Continue;
        };
        if self.foreign.is_some() {
            return Request::Continue;
        }
        self.registers.write(offset, data);
        self.dma.write(offset, data);
        let rings = offset == wire::regs::REG_DOORBELL && data.len() == 4;
        if rings && std::mem::take(&mut self.stop_at_device) {
            return Request::DeviceDoorbell;
        }
        Request::Continue
    }
}

/// A serial line that goes on to `console` from where `state` is.
pub(crate) fn serial(state: &SerialState, console: &Console) -> Result<Line, VmError> {
    Serial::from_state(state, NoInterrupt, NoEvents, console.clone())
        .map_err(|error| VmError::Config(format!("state of the serial line: {error:?}")))
}

fn serial_register(port: u16) -> Option<u8> {
    let register = port.checked_sub(layout::SERIAL_PORT)?;
    u8::try_from(register).ok().filter(|register| *register < 8)
}

fn register_offset(gpa: u64) -> Option<u64> {
    gpa.checked_sub(layout::DEVICE_REGISTERS.raw())
        .filter(|offset| *offset < wire::regs::REGS_LEN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bus_with(console: Console) -> Bus {
        let dma = Dma::new(vm_memory::GuestMemoryMmap::default(), 0, &[]);
        Bus::new(console, &[], &[], dma)
    }

    fn bus() -> Bus {
        bus_with(Console::new(None))
    }

    #[test]
    fn only_a_whole_doorbell_rings() {
        assert_eq!(
            bus().port_write(wire::DOORBELL_PORT, &[0; 4]),
            Request::Doorbell
        );
        assert_eq!(
            bus().port_write(wire::DOORBELL_PORT, &[0]),
            Request::Continue
        );
    }

    #[test]
    fn the_devices_doorbell_stops_the_guest_once_and_only_when_awaited() {
        let mut bus = bus();
        let bell = layout::DEVICE_REGISTERS.raw() + wire::regs::REG_DOORBELL;
        assert_eq!(bus.mmio_write(bell, &[1; 4]), Request::Continue);
        bus.stop_at_device = true;
        assert_eq!(bus.mmio_write(bell, &[1; 2]), Request::Continue);
        assert_eq!(bus.mmio_write(bell + 4, &[1; 4]), Request::Continue);
        assert_eq!(bus.mmio_write(bell, &[1; 4]), Request::DeviceDoorbell);
        assert_eq!(bus.mmio_write(bell, &[1; 4]), Request::Continue);
        assert_eq!(bus.registers.take_doorbells().len(), 3);
    }

    #[test]
    fn each_way_to_end_is_told_apart() {
        assert_eq!(bus().port_write(layout::RESET_PORT, &[1]), Request::Reset);
        assert_eq!(
            bus().port_write(layout::KEYBOARD_PORT, &[0xfe]),
            Request::Reset
        );
        let off = bus().port_write(layout::SLEEP_CONTROL_PORT, &[acpi::SLEEP_S5]);
        assert_eq!(off, Request::PowerOff);
    }

    #[test]
    fn the_serial_line_reaches_the_console() {
        let console = Console::new(None);
        let mut bus = bus_with(console.clone());
        for byte in b"hello\n" {
            bus.port_write(layout::SERIAL_PORT, &[*byte]);
        }
        assert_eq!(console.tail(1), ["hello"]);
    }

    #[test]
    fn nobody_answers_with_all_ones() {
        let mut data = [0; 4];
        bus().mmio_read(layout::DEVICE_REGISTERS.raw() - 4, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus().port_read(0x70, &mut data);
        assert_eq!(data, [0xff; 4]);
    }
}
