// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT

//! ioctl(2) on `/dev/mapwitness-control`: what the driver does to its own mappings on
//! request. The driver is compiled with this very file.

#![allow(dead_code)]

/// Path of the file.
pub const CONTROL_PATH: &str = "/dev/mapwitness-control";

/// Takes memory away from all its mappings; the argument is a [`Target`]. Accesses are
/// `SIGBUS` and new mappings `ENXIO` until [`RESTORE`].
///
/// `EINVAL` when there is no such memory.
pub const REVOKE: u32 = iow(1);
/// Gives it back; the argument is a [`Target`].
pub const RESTORE: u32 = iow(2);

/// Memory that the driver offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// A buffer of RAM, else a window.
    pub is_buffer: bool,
    /// Its number.
    pub index: u32,
}

impl Target {
    /// Bytes of an argument.
    pub const LEN_BYTES: usize = 8;

    /// As an argument: two little endian words of 32 bits, 0 for a window or 1 for a
    /// buffer, and the number.
    pub const fn to_bytes(self) -> [u8; Self::LEN_BYTES] {
        let [a, b, c, d] = self.index.to_le_bytes();
        [self.is_buffer as u8, 0, 0, 0, a, b, c, d]
    }

    /// What an argument says; `None` for none that this version knows.
    pub const fn from_bytes(bytes: [u8; Self::LEN_BYTES]) -> Option<Self> {
        let [kind, 0, 0, 0, a, b, c, d] = bytes else {
            return None;
        };
        let index = u32::from_le_bytes([a, b, c, d]);
        match kind {
            0 | 1 => Some(Self {
                is_buffer: kind == 1,
                index,
            }),
            _ => None,
        }
    }
}

/// `_IOW('w', number, len_bytes)` of asm-generic/ioctl.h, with the length of a [`Target`].
const fn iow(number: u32) -> u32 {
    const LEN_BYTES: u32 = 8;
    assert!(LEN_BYTES as usize == Target::LEN_BYTES);
    (1 << 30) | (LEN_BYTES << 16) | ((b'w' as u32) << 8) | number
}
