//! What a walk reads, and the address spaces it reads in.

use addr::{Gpa, Gva, Hpa};
use core::fmt;

mod sealed {
    pub trait Sealed {}
    impl Sealed for addr::Gva {}
    impl Sealed for addr::Gpa {}
    impl Sealed for addr::Hpa {}
}

/// An address space that a walk translates from, or whose memory holds tables.
pub trait AddressSpace: Copy + Eq + fmt::Debug + fmt::Display + sealed::Sealed {
    /// The space's name in KVM's words, for messages.
    const NAME: &'static str;
    /// The address with this raw value.
    fn from_raw(raw: u64) -> Self;
    /// The raw value.
    fn to_raw(self) -> u64;
}

macro_rules! address_space {
    ($address:ident, $name:literal) => {
        impl AddressSpace for $address {
            const NAME: &'static str = $name;
            fn from_raw(raw: u64) -> Self {
                Self::new(raw)
            }
            fn to_raw(self) -> u64 {
                self.raw()
            }
        }
    };
}

address_space!(Gva, "gva");
address_space!(Gpa, "gpa");
address_space!(Hpa, "hpa");

/// Memory that holds page tables: guest memory by [`Gpa`] for a guest's own
/// tables, host memory by [`Hpa`] for the second level.
pub trait TableRead {
    /// The space in which entries have their addresses.
    type Addr: AddressSpace;
    /// Why an entry could not be read.
    type Error;

    /// Reads the 8-byte entry at `at`, in one piece. `at` is a multiple of 8 and
    /// below 2^52; nothing else is known of it, since entries name it.
    ///
    /// # Errors
    /// Whatever the memory's owner says, above all that nothing is there.
    fn read_entry(&self, at: Self::Addr) -> Result<u64, Self::Error>;

    /// Reads the entries of one table that follow one another from `at` on, each in one
    /// piece. Memory that can be read in bulk has a better way than one after the other.
    ///
    /// # Errors
    /// As [`TableRead::read_entry`], for any of them; `into` then holds anything.
    fn read_entries(&self, at: Self::Addr, into: &mut [u64]) -> Result<(), Self::Error> {
        let places = (at.to_raw()..).step_by(8).map(Self::Addr::from_raw);
        for (entry, place) in into.iter_mut().zip(places) {
            *entry = self.read_entry(place)?;
        }
        Ok(())
    }
}

impl<T: TableRead + ?Sized> TableRead for &T {
    type Addr = T::Addr;
    type Error = T::Error;

    fn read_entry(&self, at: Self::Addr) -> Result<u64, Self::Error> {
        (**self).read_entry(at)
    }

    fn read_entries(&self, at: Self::Addr, into: &mut [u64]) -> Result<(), Self::Error> {
        (**self).read_entries(at, into)
    }
}
