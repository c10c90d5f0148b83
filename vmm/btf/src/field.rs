//! A member's place, and its value.

/// A member of a structure: at most a word of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Byte offset within the structure.
    pub offset: u64,
    shift: u32,
    width_bits: u32,
}

impl Field {
    /// A whole word.
    pub const fn word(offset: u64) -> Self {
        Self {
            offset,
            shift: 0,
            width_bits: 64,
        }
    }

    /// `width_bits` bits from `bit_offset` on; `None` when no word holds them.
    pub(crate) fn new(bit_offset: u64, width_bits: u32) -> Option<Self> {
        let shift = u32::try_from(bit_offset % 8).ok()?;
        (width_bits >= 1 && shift.checked_add(width_bits)? <= 64).then_some(Self {
            offset: bit_offset / 8,
            shift,
            width_bits,
        })
    }

    /// Byte offset behind its last byte.
    pub fn end(&self) -> u64 {
        self.offset + u64::from((self.shift + self.width_bits).div_ceil(8))
    }

    /// Reads it out of the structure at `base`, by a function that fills bytes from an
    /// address.
    ///
    /// # Errors
    /// What `read` says.
    pub fn read<E>(
        self,
        base: u64,
        read: impl FnOnce(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let mut word = [0; 8];
        let len_bytes = usize::try_from((self.shift + self.width_bits).div_ceil(8)).unwrap_or(8);
        let bytes = word.get_mut(..len_bytes).unwrap_or_default();
        read(base.wrapping_add(self.offset), bytes)?;
        let value = u64::from_le_bytes(word) >> self.shift;
        Ok(value & (u64::MAX >> (64 - self.width_bits)))
    }
}

/// A member that is an array of numbers or pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array {
    pub(crate) offset: u64,
    pub(crate) element_bits: u32,
    pub(crate) len: u64,
}

impl Array {
    /// An array of whole words.
    pub const fn of_words(offset: u64, len: u64) -> Self {
        Self {
            offset,
            element_bits: 64,
            len,
        }
    }

    /// How many elements it has.
    pub const fn len(self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The element `index`; `None` past the end.
    pub fn element(self, index: u64) -> Option<Field> {
        if index >= self.len {
            return None;
        }
        let bits = index.checked_mul(u64::from(self.element_bits))?;
        Field::new(
            self.offset.checked_mul(8)?.checked_add(bits)?,
            self.element_bits,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_field_is_cut_out_of_the_bytes_that_hold_it() {
        let field = Field::new(0x10 * 8 + 3, 7).expect("within a word");
        let value = field.read(0x1000, |at, into| {
            assert_eq!((at, into.len()), (0x1010, 2));
            into.copy_from_slice(&[0b1111_1000, 0b0000_0001]);
            Ok::<(), ()>(())
        });
        assert_eq!(value, Ok(0b011_1111));
        assert_eq!(Field::new(7, 60), None);
        assert_eq!(Field::new(0, 0), None);
        assert_eq!(Field::new(0, u32::MAX), None);
    }

    #[test]
    fn an_array_ends() {
        let array = Array::of_words(8, 3);
        assert_eq!(array.element(2), Some(Field::word(24)));
        assert_eq!(array.element(3), None);
        assert_eq!(array.element(u64::MAX), None);
    }
}
