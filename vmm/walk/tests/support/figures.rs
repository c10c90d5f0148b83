//! A naive reading of the manuals' figures, as an oracle: entries are strings of
//! 64 binary digits, laid against a figure of 64 letters (spaces do not count).
//! Shares nothing with the walker, and cares for nothing but being obvious.
//!
//! Letters: `P` `W` `U` present, writable, user; `t` `c` `T` PWT, PCD, PAT; `a`
//! `D` `G` accessed, dirty, global; `K` protection key; `X` execute-disable; `p`
//! physical address; `i` ignored; `8` bit 8 where AMD reserves it; `0` `1` bits
//! with that fixed value, `r` reserved.

use std::collections::HashMap;

const UPPER_TABLE: &str =
    "X iiiiiiiiiii pppppppppppppppppppppppppppppppppppppppp iii 8 r i a c t U W P";
const LOWER_TABLE: &str =
    "X iiiiiiiiiii pppppppppppppppppppppppppppppppppppppppp iii i 0 i a c t U W P";
const PAGE_1G: &str =
    "X KKKK iiiiiii pppppppppppppppppppppp rrrrrrrrrrrrrrrrr T iii G 1 D a c t U W P";
const PAGE_2M: &str =
    "X KKKK iiiiiii ppppppppppppppppppppppppppppppp rrrrrrrr T iii G 1 D a c t U W P";
const PAGE_4K: &str =
    "X KKKK iiiiiii pppppppppppppppppppppppppppppppppppppppp iii G T D a c t U W P";

/// The processor's side of the matter.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    pub levels: usize,
    pub maxphyaddr: usize,
    pub nxe: bool,
    pub gib_pages: bool,
    pub amd: bool,
}

/// How a walk ends, as plainly as can be said. Levels count from 1 at the bottom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    NotCanonical,
    NotPresent {
        level: usize,
        read: Vec<u64>,
    },
    Reserved {
        level: usize,
        read: Vec<u64>,
    },
    Unreadable {
        level: usize,
        at: u64,
        read: Vec<u64>,
    },
    Page(Page),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub address: u64,
    pub level: usize,
    pub write: bool,
    pub user: bool,
    pub exec: bool,
    /// PAT, PCD, PWT as a number.
    pub pat_index: u64,
    pub accessed: bool,
    pub dirty: bool,
    pub global_bit: bool,
    pub key: u64,
    pub read: Vec<u64>,
}

/// Digits of an entry, by the letters of a figure.
pub struct Fields(HashMap<char, String>);

impl Fields {
    pub fn of(figure: &str, digits: &str) -> Self {
        let figure: String = figure.split(' ').collect();
        assert_eq!((figure.len(), digits.len()), (64, 64));
        let mut fields = HashMap::<char, String>::new();
        for (letter, digit) in figure.chars().zip(digits.chars()) {
            fields.entry(letter).or_default().push(digit);
        }
        Self(fields)
    }

    pub fn text(&self, letter: char) -> &str {
        self.0.get(&letter).map_or("", String::as_str)
    }

    pub fn number(&self, letter: char) -> u64 {
        u64::from_str_radix(self.text(letter), 2).unwrap_or(0)
    }

    pub fn is_set(&self, letter: char) -> bool {
        self.text(letter) == "1"
    }

    fn is_malformed(&self, cpu: Processor) -> bool {
        // The field of the address begins at bit 51, whatever its length.
        let beyond: String = self.text('p').chars().take(52 - cpu.maxphyaddr).collect();
        self.text('r').contains('1')
            || beyond.contains('1')
            || (cpu.amd && self.is_set('8'))
            || (!cpu.nxe && self.is_set('X'))
    }
}

fn figure(level: usize, digits: &str) -> &'static str {
    let page_size = digits.chars().nth(63 - 7) == Some('1');
    match (level, page_size) {
        (1, _) => PAGE_4K,
        (2, true) => PAGE_2M,
        (3, true) => PAGE_1G,
        (2 | 3, false) => LOWER_TABLE,
        _ => UPPER_TABLE,
    }
}

/// Follows `address` from the table at `root` through `entries`.
pub fn follow(cpu: Processor, root: u64, entries: &HashMap<u64, u64>, address: u64) -> End {
    let address_digits = format!("{address:064b}");
    let sign = &address_digits[..64 - (9 * cpu.levels + 12) + 1];
    if sign.contains('0') && sign.contains('1') {
        return End::NotCanonical;
    }
    let mut read = Vec::new();
    let mut all = Vec::new();
    let mut table = root;
    for level in (1..=cpu.levels).rev() {
        let low_digits = 12 + 9 * (level - 1);
        let index = &address_digits[64 - low_digits - 9..64 - low_digits];
        let at = table + 8 * u64::from_str_radix(index, 2).expect("nine digits");
        let Some(&raw) = entries.get(&at) else {
            return End::Unreadable { level, at, read };
        };
        read.push(raw);
        let digits = format!("{raw:064b}");
        let fields = Fields::of(figure(level, &digits), &digits);
        let maps_page = level == 1 || fields.is_set('1');
        if !fields.is_set('P') {
            return End::NotPresent { level, read };
        }
        if fields.is_malformed(cpu) || (level == 3 && maps_page && !cpu.gib_pages) {
            return End::Reserved { level, read };
        }
        all.push((fields.is_set('W'), fields.is_set('U'), fields.is_set('X')));
        let page_number = fields.number('p');
        if !maps_page {
            table = page_number * 4096;
            continue;
        }
        let offset = &address_digits[64 - low_digits..];
        return End::Page(Page {
            address: page_number * (1 << low_digits)
                + u64::from_str_radix(offset, 2).expect("the offset's digits"),
            level,
            write: all.iter().all(|(write, _, _)| *write),
            user: all.iter().all(|(_, user, _)| *user),
            exec: !all.iter().any(|(_, _, disabled)| *disabled),
            pat_index: 4 * fields.number('T') + 2 * fields.number('c') + fields.number('t'),
            accessed: fields.is_set('a'),
            dirty: fields.is_set('D'),
            global_bit: fields.is_set('G'),
            key: fields.number('K'),
            read,
        });
    }
    unreachable!("level 1 maps a page")
}
