//! A case: what is done to a driver, from the same start each time.

use std::fmt::Write as _;
use std::path::Path;

use harness::model::{Call, Operation};
use libafl::Error;
use libafl::corpus::CorpusId;
use libafl::inputs::Input;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use crate::files;

/// More operations would only take longer.
pub const MOST_OPERATIONS: usize = 24;
/// Most operations of a case that is read from a file.
const MOST_READ: usize = 1024;
/// Most pages that are only taken: each of them is looked at.
pub(crate) const MOST_RESERVED: u64 = 4096;

/// Operations, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Case {
    /// In this order.
    pub operations: Vec<Operation>,
}

/// A case that is no such thing.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
    /// It is not written as cases are.
    #[error("it is no case")]
    Form(#[from] toml::de::Error),
    /// It would take too long.
    #[error("it has {found} operations, and no more than {MOST_READ} are done")]
    Long {
        /// How many.
        found: usize,
    },
    /// It takes too many addresses.
    #[error("it reserves {npages} pages, and no more than {MOST_RESERVED} can be looked at")]
    Wide {
        /// How many.
        npages: u64,
    },
}

impl Case {
    /// As text, an operation on each line.
    ///
    /// # Errors
    /// A number that has no place in the format: one above 2^63.
    pub fn text(&self) -> Result<String, toml::ser::Error> {
        let mut text = String::from("operations = [\n");
        for operation in &self.operations {
            let operation = toml::Value::try_from(operation)?;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {operation},");
        }
        text.push_str("]\n");
        Ok(text)
    }

    /// Its name in a corpus: equal cases have equal names, in every run.
    pub fn file_name(&self) -> String {
        let text = self.text().unwrap_or_default();
        format!("{:016x}.toml", xxh64(text.as_bytes(), 0))
    }

    /// The case that `text` holds.
    ///
    /// # Errors
    /// [`CaseError`] for what is none, or one that is too large to be done.
    pub fn parse(text: &str) -> Result<Self, CaseError> {
        let case: Self = toml::from_str(text)?;
        case.checked()
    }

    /// The case in a file.
    ///
    /// # Errors
    /// [`CaseError`] when it cannot be read, or holds no case.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    /// The case, if it can be done with bounded effort.
    pub(crate) fn checked(self) -> Result<Self, CaseError> {
        let found = self.operations.len();
        if found > MOST_READ {
            return Err(CaseError::Long { found });
        }
        for operation in &self.operations {
            if let Call::Reserve { npages, .. } = operation.call
                && npages > MOST_RESERVED
            {
                return Err(CaseError::Wide { npages });
            }
        }
        Ok(self)
    }
}

impl Input for Case {
    fn to_file<P: AsRef<Path>>(&self, path: P) -> Result<(), Error> {
        let text = self
            .text()
            .map_err(|error| Error::serialize(error.to_string()))?;
        files::write(path.as_ref(), &text)?;
        Ok(())
    }

    fn from_file<P: AsRef<Path>>(path: P) -> Result<Self, Error> {
        Self::read(path.as_ref()).map_err(|error| Error::serialize(error.to_string()))
    }

    fn generate_name(&self, _id: Option<CorpusId>) -> String {
        self.file_name()
    }
}

#[cfg(test)]
mod tests {
    use harness::model::{Anchor, Handle, Offered, Process};
    use wire::{Advice, OpenMode, Prot, Sharing};

    use super::*;

    /// One call of each kind.
    fn each() -> Case {
        const A: Anchor = Anchor(3);
        let place = A.page(2);
        let pages = A.pages(1, 2);
        let (prot, sharing) = (Prot::READ_WRITE, Sharing::Shared);
        let map = |fixed| Call::Map {
            handle: Handle(1),
            first_page: 2,
            npages: 3,
            prot,
            sharing,
            fixed,
            anchor: A,
        };
        let remap = |fixed| Call::Remap {
            pages,
            new_npages: 1,
            may_move: true,
            fixed,
            anchor: A,
        };
        let of = Process(1);
        let calls = [
            Call::Open {
                file: 1,
                mode: OpenMode::ReadOnly,
                handle: Handle(1),
            },
            map(None),
            map(Some(place)),
            Call::Ask {
                handle: Handle(1),
                offset_bytes: u64::MAX,
                len_bytes: 1 << 63,
                prot: Prot::NONE,
                sharing: Sharing::Private,
                anchor: A,
            },
            Call::Reserve {
                npages: 4,
                anchor: A,
            },
            Call::Unmap(pages),
            Call::Protect { pages, prot },
            Call::Advise {
                pages,
                advice: Advice::DontFork,
            },
            remap(None),
            remap(Some(place)),
            Call::Load(place),
            Call::Store(place),
            Call::Fork { child: of },
            Call::Exit,
            Call::Peek { of, at: place },
            Call::Poke { of, at: place },
            Call::ReadMem { of, at: place },
            Call::Revoke { window: 1 },
            Call::Restore { window: 1 },
            Call::Offer {
                window: 1,
                offer: Offered::ReadOnly,
            },
            Call::Unbind,
            Call::Bind,
            Call::Close { handle: Handle(1) },
        ];
        Case {
            operations: calls.map(|call| Process::FIRST.does(call)).to_vec(),
        }
    }

    #[test]
    fn a_case_is_text_with_an_operation_on_each_line() {
        let case = each();
        let text = case.text().expect("written");
        assert_eq!(text.lines().count(), case.operations.len() + 2, "{text}");
        assert_eq!(Case::parse(&text).expect("read"), case);
    }

    #[test]
    fn what_would_take_too_long_is_no_case() {
        let exit = Process::FIRST.does(Call::Exit);
        let long = Case {
            operations: vec![exit; MOST_READ + 1],
        };
        let long = Case::parse(&long.text().expect("written"));
        assert!(matches!(long, Err(CaseError::Long { .. })), "{long:?}");
        let reserve = Call::Reserve {
            npages: MOST_RESERVED + 1,
            anchor: Anchor(0),
        };
        let wide = Case {
            operations: vec![Process::FIRST.does(reserve)],
        };
        let wide = Case::parse(&wide.text().expect("written"));
        assert!(matches!(wide, Err(CaseError::Wide { .. })), "{wide:?}");
        assert!(Case::parse("operations = 3").is_err());
    }

    #[test]
    fn equal_cases_have_equal_names() {
        let (one, mut other) = (each(), each());
        assert_eq!(one.generate_name(None), other.generate_name(None));
        other.operations.pop();
        assert_ne!(one.generate_name(None), other.generate_name(None));
    }
}
