//! Reading the host's memory, by the kernel's own addresses and by physical ones.

use addr::Hpa;

/// Memory that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No part of the kernel's memory has this address.
    #[error("the kernel has no memory at {address:#x}")]
    NoMemory {
        /// A virtual address of the kernel.
        address: u64,
    },
    /// No part of the kernel's direct map has this address.
    #[error("the kernel maps no memory at hpa {0}")]
    NotMapped(Hpa),
    /// The kernel refuses the read.
    #[error("read /proc/kcore at {address:#x}: {reason}")]
    Refused {
        /// Where.
        address: u64,
        /// Why.
        reason: String,
    },
}

/// The host's memory.
pub trait HostMemory {
    /// Fills `into` from a virtual address of the kernel.
    ///
    /// # Errors
    /// [`ReadError`] unless all of it can be read.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError>;

    /// Fills `into` from a physical address.
    ///
    /// # Errors
    /// [`ReadError`] unless all of it can be read.
    fn read_physical(&self, at: Hpa, into: &mut [u8]) -> Result<(), ReadError>;

    /// The physical address behind an address of the direct map.
    fn physical(&self, address: u64) -> Option<Hpa>;

    /// A word of 8 bytes.
    ///
    /// # Errors
    /// As [`HostMemory::read`].
    fn read_u64(&self, address: u64) -> Result<u64, ReadError> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }
}
