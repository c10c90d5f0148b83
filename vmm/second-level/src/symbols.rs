//! Addresses of the kernel's variables, from /proc/kallsyms.

use std::fs::File;
use std::io::{BufRead, BufReader};

use crate::error::Error;

const PATH: &str = "/proc/kallsyms";

/// The variables that are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Symbols {
    /// `init_task`, the head of the list of all processes.
    pub init_task: u64,
    /// `kvm_vcpu_fops`, which tells the file of a vCPU from any other.
    pub vcpu_fops: u64,
}

impl Symbols {
    pub(crate) fn read() -> Result<Self, Error> {
        let file = File::open(PATH).map_err(Error::OpenKallsyms)?;
        Self::from_lines(BufReader::with_capacity(1 << 16, file))
    }

    fn from_lines(mut lines: impl BufRead) -> Result<Self, Error> {
        let (mut init_task, mut vcpu_fops) = (None, None);
        let mut line = Vec::new();
        while init_task.is_none() || vcpu_fops.is_none() {
            line.clear();
            let len_bytes = lines
                .read_until(b'\n', &mut line)
                .map_err(Error::OpenKallsyms)?;
            if len_bytes == 0 {
                break;
            }
            // Some hundred thousand lines: only what is wanted is made sense of.
            let Some((address, name)) = words(&line) else {
                continue;
            };
            let wanted = match name {
                b"init_task" => &mut init_task,
                b"kvm_vcpu_fops" => &mut vcpu_fops,
                _ => continue,
            };
            *wanted = number(address).or(*wanted);
        }
        let there = |address: Option<u64>, symbol| match address {
            None => Err(Error::NoSymbol { symbol }),
            Some(0) => Err(Error::SymbolsHidden),
            Some(address) => Ok(address),
        };
        Ok(Self {
            init_task: there(init_task, "init_task")?,
            vcpu_fops: there(vcpu_fops, "kvm_vcpu_fops")?,
        })
    }
}

/// `address type name[\tmodule]`, proc_kallsyms(5).
fn words(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let address = words.next()?;
    let name = words.nth(1)?;
    Some((address, name))
}

fn number(address: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(address).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "ffffffff8260f940 D init_task\n\
                         ffffffffc0a41000 d kvm_vcpu_fops\t[kvm]\n";

    #[test]
    fn symbols_of_the_kernel_and_of_modules_are_found() {
        let found = Symbols::from_lines(LINES.as_bytes()).expect("both");
        assert_eq!(found.init_task, 0xffff_ffff_8260_f940);
        assert_eq!(found.vcpu_fops, 0xffff_ffff_c0a4_1000);
    }

    #[test]
    fn hidden_addresses_are_told_from_missing_symbols() {
        let hidden = LINES.replace("ffffffff8260f940", "0000000000000000");
        let error = Symbols::from_lines(hidden.as_bytes()).expect_err("hidden");
        assert!(matches!(error, Error::SymbolsHidden), "{error}");
        let error = Symbols::from_lines(&b"junk\n0 D init_tasks\n"[..]).expect_err("missing");
        assert!(error.to_string().contains("init_task"), "{error}");
    }
}
