//! Rights that mprotect gives and takes.

use contract::Access;
use wire::{OpenMode, Prot, Sharing};

use super::kept::Kept;
use super::{OnRange, PAGES};
use crate::error::HarnessError;
use crate::guest::Guest;
use crate::mapping::{Mapping, Presence};
use crate::outcome::{Outcome, Refusal};

const READ_EXEC: Prot = Prot {
    exec: true,
    ..Prot::READ
};

impl OnRange<'_> {
    /// No mprotect gives a mapping rights that the range does not have.
    pub(super) fn rights_not_had(&mut self) -> Result<(), HarnessError> {
        let Access { write, exec, .. } = self.range.access;
        let beyond = [
            (!write, "mprotect to PROT_WRITE", Prot::READ_WRITE),
            (!exec, "mprotect to PROT_EXEC", READ_EXEC),
        ];
        for (_, name, prot) in beyond.into_iter().filter(|(wanting, ..)| *wanting) {
            self.raise(name, self.file.widest_mode(), prot)?;
        }
        Ok(())
    }

    /// No mprotect gives a mapping rights that its open file does not have.
    pub(super) fn rights_of_the_open_file(&mut self) -> Result<(), HarnessError> {
        if !self.range.access.write {
            return Ok(());
        }
        let name = "mprotect to PROT_WRITE, by a file open for reading";
        self.raise(name, OpenMode::ReadOnly, Prot::READ_WRITE)
    }

    /// Asks for rights that must not be had.
    fn raise(&mut self, name: &str, mode: OpenMode, prot: Prot) -> Result<(), HarnessError> {
        let Some(spec) = self.granted(Prot::READ, Sharing::Shared, mode) else {
            return Ok(());
        };
        let refusal = Refusal::Errno(libc::EACCES);
        self.keep(name, &spec, mode, &mut |guest, mapping| {
            let raised = guest.mprotect(mapping.gva, mapping.spec.len_bytes(), prot)?;
            Ok(Kept::answered(refusal, raised))
        })
    }

    /// Rights that the range has can be had later, and reach the tables.
    pub(super) fn rights_raised(&mut self) -> Result<(), HarnessError> {
        let most = self.most();
        let Some(spec) = self.granted(Prot::READ, Sharing::Shared, self.file.widest_mode()) else {
            return Ok(());
        };
        if !most.write && !most.exec {
            return Ok(());
        }
        let name = "mprotect to all rights that it may have";
        self.keep(
            name,
            &spec,
            self.file.widest_mode(),
            &mut |guest, mapping| {
                let before = guest.witness_in_use(mapping)?;
                Ok(match protected(guest, mapping, most)? {
                    Ok(raised) => Kept::looked(PAGES, [before, guest.witness_in_use(&raised)?]),
                    Err(refusal) => Kept::refused(PAGES, refusal),
                })
            },
        )
    }

    /// Rights that are taken away are gone from the tables, and can be given back.
    pub(super) fn rights_lowered(&mut self) -> Result<(), HarnessError> {
        let Some(spec) = self.granted_most() else {
            return Ok(());
        };
        let most = spec.prot;
        let name = "mprotect to PROT_READ, to PROT_NONE and back";
        self.keep(
            name,
            &spec,
            self.file.widest_mode(),
            &mut |guest, mapping| {
                let mut looks = vec![guest.witness_in_use(mapping)?];
                for prot in [Prot::READ, Prot::NONE, most] {
                    match protected(guest, mapping, prot)? {
                        Ok(now) => {
                            looks.push(guest.witness(&now, &Presence::All)?);
                            looks.push(guest.witness_in_use(&now)?);
                        }
                        Err(refusal) => return Ok(Kept::refused(PAGES, refusal)),
                    }
                }
                Ok(Kept::looked(PAGES, looks))
            },
        )
    }
}

/// The mapping after an mprotect of all of it.
fn protected(
    guest: &mut Guest,
    mapping: &Mapping,
    prot: Prot,
) -> Result<Outcome<Mapping>, HarnessError> {
    let answer = guest.mprotect(mapping.gva, mapping.spec.len_bytes(), prot)?;
    let mut now = mapping.clone();
    now.spec.prot = prot;
    Ok(answer.map(|()| now))
}
