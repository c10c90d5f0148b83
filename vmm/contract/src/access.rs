//! What user space may do with a page.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What user space may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Access {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub exec: bool,
}

impl Access {
    /// Loads only.
    pub const READ: Self = Self {
        read: true,
        write: false,
        exec: false,
    };
    /// Loads and stores.
    pub const READ_WRITE: Self = Self {
        write: true,
        ..Self::READ
    };
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |set, name| if set { name } else { '-' };
        write!(
            f,
            "{}{}{}",
            flag(self.read, 'r'),
            flag(self.write, 'w'),
            flag(self.exec, 'x')
        )
    }
}
