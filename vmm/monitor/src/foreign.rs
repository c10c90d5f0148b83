//! Registers of a device that is not the project's own: each reads as one value.

use std::collections::BTreeMap;

use crate::config::Registers;

/// The register page of such a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ForeignRegisters(BTreeMap<u64, u32>);

impl ForeignRegisters {
    /// The page that `registers` describe; `None` for the project's own device.
    pub(crate) fn of(registers: &Registers) -> Option<Self> {
        match registers {
            Registers::Own => None,
            Registers::Absent => Some(Self::default()),
            Registers::Fixed(values) => Some(Self(
                values
                    .iter()
                    .map(|(offset, value)| (u64::from(*offset), *value))
                    .collect(),
            )),
        }
    }

    /// Answers a load at byte `at` of the page. What no register has reads as 0.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) {
        for (at, byte) in (at..).zip(into) {
            let register = at & !3;
            let value = self.0.get(&register).copied().unwrap_or(0);
            let [zero, one, two, three] = value.to_le_bytes();
            *byte = match at - register {
                0 => zero,
                1 => one,
                2 => two,
                _ => three,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_read_as_they_were_described() {
        let fixed = Registers::Fixed(vec![(0, 0x4433_2211), (8, 7)]);
        let page = ForeignRegisters::of(&fixed).expect("a foreign device");
        let read = |at, len| {
            let mut into = vec![0xff; len];
            page.read(at, &mut into);
            into
        };
        assert_eq!(read(0, 4), [0x11, 0x22, 0x33, 0x44]);
        assert_eq!(read(2, 8), [0x33, 0x44, 0, 0, 0, 0, 7, 0]);
        assert_eq!(read(0xffc, 4), [0; 4]);
        assert_eq!(ForeignRegisters::of(&Registers::Own), None);
    }
}
