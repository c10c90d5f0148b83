//! The naive reading of figures, for EPT. `R` `W` `E` `u` read, write, execute,
//! user-mode execute; `M` memory type; `I` ignore-PAT; `V` suppress-#VE; the other
//! letters as in `figures`.

use super::figures::Fields;
use std::collections::HashMap;

const UPPER_TABLE: &str =
    "iiiiiiiiiiii pppppppppppppppppppppppppppppppppppppppp i u i a rrrrr E W R";
const LOWER_TABLE: &str =
    "iiiiiiiiiiii pppppppppppppppppppppppppppppppppppppppp i u i a 0 rrrr E W R";
const PAGE_1G: &str =
    "V iiiiiiiiiii pppppppppppppppppppppp rrrrrrrrrrrrrrrrrr i u D a 1 I MMM E W R";
const PAGE_2M: &str =
    "V iiiiiiiiiii ppppppppppppppppppppppppppppppp rrrrrrrrr i u D a 1 I MMM E W R";
const PAGE_4K: &str =
    "V iiiiiiiiiii pppppppppppppppppppppppppppppppppppppppp i u D a i I MMM E W R";

#[derive(Clone, Copy, Debug)]
pub struct EptProcessor {
    pub levels: usize,
    pub maxphyaddr: usize,
    pub gib_pages: bool,
    pub execute_only: bool,
    pub mode_based_exec: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EptEnd {
    Beyond,
    NotPresent { level: usize, raw: u64 },
    Misconfigured { level: usize, raw: u64 },
    Unreadable { level: usize, at: u64 },
    Page(EptPage),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EptPage {
    pub address: u64,
    pub level: usize,
    pub read: bool,
    pub write: bool,
    pub exec: bool,
    pub memory_type: u64,
    pub ignore_pat: bool,
    pub suppress_ve: bool,
    pub accessed: bool,
    pub dirty: bool,
}

fn figure(level: usize, digits: &str) -> &'static str {
    let large = digits.chars().nth(63 - 7) == Some('1');
    match (level, large) {
        (1, _) => PAGE_4K,
        (2, true) => PAGE_2M,
        (3, true) => PAGE_1G,
        (2 | 3, false) => LOWER_TABLE,
        _ => UPPER_TABLE,
    }
}

/// The list of the section "EPT Misconfigurations".
fn is_misconfigured(cpu: EptProcessor, level: usize, maps_page: bool, fields: &Fields) -> bool {
    let executes = fields.is_set('E') || (cpu.mode_based_exec && fields.is_set('u'));
    let write_alone = !fields.is_set('R') && fields.is_set('W');
    let execute_alone = !fields.is_set('R') && executes && !cpu.execute_only;
    let beyond: String = fields.text('p').chars().take(52 - cpu.maxphyaddr).collect();
    let reserved = fields.text('r').contains('1')
        || beyond.contains('1')
        || (level == 3 && maps_page && !cpu.gib_pages);
    let bad_type = maps_page && ["010", "011", "111"].contains(&fields.text('M'));
    write_alone || execute_alone || reserved || bad_type
}

/// Follows `address` from the table at `root` through `entries`.
pub fn follow_ept(
    cpu: EptProcessor,
    root: u64,
    entries: &HashMap<u64, u64>,
    address: u64,
) -> EptEnd {
    let address_digits = format!("{address:064b}");
    if address_digits[..64 - (9 * cpu.levels + 12)].contains('1') {
        return EptEnd::Beyond;
    }
    let (mut read, mut write, mut exec) = (true, true, true);
    let mut table = root;
    for level in (1..=cpu.levels).rev() {
        let low_digits = 12 + 9 * (level - 1);
        let index = &address_digits[64 - low_digits - 9..64 - low_digits];
        let at = table + 8 * u64::from_str_radix(index, 2).expect("nine digits");
        let Some(&raw) = entries.get(&at) else {
            return EptEnd::Unreadable { level, at };
        };
        let digits = format!("{raw:064b}");
        let fields = Fields::of(figure(level, &digits), &digits);
        let maps_page = level == 1 || fields.is_set('1');
        let user_executes = cpu.mode_based_exec && fields.is_set('u');
        if digits.ends_with("000") && !user_executes {
            return EptEnd::NotPresent { level, raw };
        }
        if is_misconfigured(cpu, level, maps_page, &fields) {
            return EptEnd::Misconfigured { level, raw };
        }
        read &= fields.is_set('R');
        write &= fields.is_set('W');
        exec &= fields.is_set('E') && (user_executes || !cpu.mode_based_exec);
        let page_number = fields.number('p');
        if !maps_page {
            table = page_number * 4096;
            continue;
        }
        let offset = &address_digits[64 - low_digits..];
        return EptEnd::Page(EptPage {
            address: page_number * (1 << low_digits)
                + u64::from_str_radix(offset, 2).expect("the offset's digits"),
            level,
            read,
            write,
            exec,
            memory_type: fields.number('M'),
            ignore_pat: fields.is_set('I'),
            suppress_ve: fields.is_set('V'),
            accessed: fields.is_set('a'),
            dirty: fields.is_set('D'),
        });
    }
    unreachable!("level 1 maps a page")
}
