//! What a guest and a file say to this crate, for fuzzing.

use std::fs::File;
use std::io::{Seek, Write};

use addr::{Gpa, PAGE_SIZE};
use vm_memory::{Bytes, GuestAddress};

use crate::bus::Bus;
use crate::config::{VmConfig, WindowConfig, standard_buffers};
use crate::console::Console;
use crate::dma::Dma;
use crate::layout;
use crate::saved;
use crate::slots::GuestMemory;
use crate::window::Window;

const PAGE_LEN: usize = 4096;
const RAM_PAGES: usize = 4;
/// Memory that is neither RAM nor the device's.
const FOREIGN: GuestAddress = GuestAddress(RAM_PAGES as u64 * PAGE_SIZE);
const WINDOW: Gpa = Gpa::new(0xd200_0000);

/// One access of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// A port, or else memory.
    pub port: bool,
    /// A store, or else a load.
    pub store: bool,
    /// The port, or the byte of memory from the register page on.
    pub at: u16,
    /// How many bytes, up to 8.
    pub len: u8,
    /// What is stored.
    pub value: u64,
}

/// Has the devices answer these accesses.
///
/// # Panics
/// When the device touches memory that is neither its own nor RAM.
pub fn devices(accesses: &[Access]) {
    let memory = GuestMemory::from_ranges(&[
        (GuestAddress(0), RAM_PAGES * PAGE_LEN),
        (FOREIGN, PAGE_LEN),
        (GuestAddress(WINDOW.raw()), 2 * PAGE_LEN),
    ])
    .expect("memory");
    let config = WindowConfig {
        name: "fuzzed".into(),
        npages: 2,
        read_only: false,
        align_bytes: PAGE_SIZE,
    };
    let windows = [Window::new(&config, WINDOW, 1).expect("a window")];
    let dma = Dma::new(memory.clone(), FOREIGN.0, &windows);
    let console = Console::new(None);
    let mut bus = Bus::new(console.clone(), &windows, &standard_buffers(), dma);
    for access in accesses {
        answer(&mut bus, *access);
    }
    let state = bus.state();
    bus.restore(&state, &console).expect("its own state");
    bus.registers.take_doorbells();
    let mut foreign = [0; PAGE_LEN];
    memory.read_slice(&mut foreign, FOREIGN).expect("there");
    assert!(
        foreign.iter().all(|byte| *byte == 0),
        "foreign memory was written"
    );
}

fn answer(bus: &mut Bus, access: Access) {
    let Access {
        port,
        store,
        at,
        len,
        value,
    } = access;
    let mut data = value.to_le_bytes();
    let data = &mut data[..usize::from(len.clamp(1, 8))];
    let gpa = layout::DEVICE_REGISTERS.raw().wrapping_add(u64::from(at));
    match (port, store) {
        (true, true) => drop(bus.port_write(at, data)),
        (true, false) => bus.port_read(at, data),
        (false, true) => drop(bus.mmio_write(gpa, data)),
        (false, false) => bus.mmio_read(gpa, data),
    }
}

/// Takes a file of a saved guest: as it is, and then with `state` as its state under a
/// header and sums that are right.
pub fn saved_guest(bytes: &[u8], state: &[u8]) {
    let key = [7; saved::KEY_LEN];
    if let Ok(file) = written(&[bytes]) {
        let _ = saved::Saved::open(file, &key);
    }
    let memory = vec![0; 2 * PAGE_LEN];
    let Ok(header) = saved::header_of(key, &memory, state) else {
        return;
    };
    let Ok(file) = written(&[&header, &memory, state]) else {
        return;
    };
    if let Ok(saved) = saved::Saved::open(file, &key) {
        let config = VmConfig::new("kernel".into(), "initramfs".into());
        saved.parse(&config);
    }
}

fn written(parts: &[&[u8]]) -> std::io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("saved", flags)?);
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.rewind()?;
    Ok(file)
}
