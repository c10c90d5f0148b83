//! What is kept of a guest besides its memory, and how it stands in a file.

use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialState;

use super::runs::Run;
use crate::snapshot::{CpuState, MachineState};

/// All of it. The device is left out: it has not been used yet.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    pub(super) cpus: Vec<CpuState>,
    pub(super) machine: MachineState,
    pub(super) serial: Serial,
    /// Registers of the event timer; none without one.
    pub(super) timer: Vec<u64>,
    pub(super) console: Vec<u8>,
    /// The vCPU that rang.
    pub(super) at_doorbell: u8,
    /// Thousands of ticks a second of the time stamp counter.
    pub(super) tsc_khz: u32,
    /// Pages of RAM, and behind them those of the message area.
    pub(super) memory: [Vec<Run>; 2],
}

/// Registers of the serial line.
#[derive(Serialize, Deserialize)]
pub(super) struct Serial {
    divisor: [u8; 2],
    interrupts: [u8; 2],
    line: [u8; 2],
    modem: [u8; 2],
    scratch: u8,
    received: Vec<u8>,
}

impl From<SerialState> for Serial {
    fn from(state: SerialState) -> Self {
        Self {
            divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupts: [state.interrupt_enable, state.interrupt_identification],
            line: [state.line_control, state.line_status],
            modem: [state.modem_control, state.modem_status],
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

impl From<Serial> for SerialState {
    fn from(serial: Serial) -> Self {
        let [baud_divisor_low, baud_divisor_high] = serial.divisor;
        let [interrupt_enable, interrupt_identification] = serial.interrupts;
        let [line_control, line_status] = serial.line;
        let [modem_control, modem_status] = serial.modem;
        Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch: serial.scratch,
            in_buffer: serial.received,
        }
    }
}
