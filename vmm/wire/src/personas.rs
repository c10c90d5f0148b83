// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT

//! What user space tells the personas by ioctl(2): the contract between the guest's
//! driver, which is compiled with this very file, and whoever tests it.
//!
//! The originals take the same from their hardware, from kernel parameters or from
//! ioctls of their own. Arguments are read at the pointer that is passed, little endian.

#![allow(dead_code)]

/// Number of a command (asm-generic/ioctl.h): direction, length, kind, number.
const fn command(direction: u32, kind: u8, number: u32, len_bytes: u32) -> u32 {
    direction << 30 | len_bytes << 16 | (kind as u32) << 8 | number
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// u32: 0 keeps the page of registers to the driver (`hpet_mmap=0`), anything else
/// offers it.
pub const HPET_OFFER: u32 = command(WRITE, b'h', 0x40, 4);
/// u32: byte of its page at which the register block begins.
pub const HPET_PLACE: u32 = command(WRITE, b'h', 0x41, 4);

/// Takes the backend: the file becomes that of its controller.
pub const AGP_ACQUIRE: u32 = command(NONE, b'A', 1, 0);
/// Gives it back.
pub const AGP_RELEASE: u32 = command(NONE, b'A', 2, 0);
/// Gives a client its segments. i32 pid, u32 number of segments (0 takes the client
/// away), then [`AGP_MAX_SEGMENTS`] times: u64 first page, u64 pages, u64 `PROT_*`.
///
/// The original has a pointer to the segments, and takes more of them.
pub const AGP_RESERVE: u32 = command(WRITE, b'A', 4, AGP_RESERVE_LEN);
/// Most segments of one client.
pub const AGP_MAX_SEGMENTS: usize = 4;
/// Bytes of a segment.
pub const AGP_SEGMENT_LEN_BYTES: usize = 24;
/// Bytes of the argument of [`AGP_RESERVE`].
pub const AGP_RESERVE_LEN_BYTES: usize = 8 + AGP_MAX_SEGMENTS * AGP_SEGMENT_LEN_BYTES;
const AGP_RESERVE_LEN: u32 = 104;
const _: () = assert!(AGP_RESERVE_LEN as usize == AGP_RESERVE_LEN_BYTES);

/// The next fault finds, with its page in hand, that another has been quicker.
pub const MSPEC_LOSE_RACE: u32 = command(NONE, b'm', 1, 0);
/// Four u64: regions that exist, pages that they hold, pages ever allocated, pages
/// ever freed.
pub const MSPEC_COUNTS: u32 = command(READ, b'm', 2, 32);
