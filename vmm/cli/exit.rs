//! Exit statuses, and errors as a person reads them.

use std::process::ExitCode;

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything is as it must be.
    Pass,
    /// 1: something is not.
    Fail,
    /// 2: it could not be checked.
    NotChecked,
}

impl Exit {
    /// A status that another process ended with, handed on.
    pub fn from_status(status: i32) -> ExitCode {
        ExitCode::from(u8::try_from(status).unwrap_or(2))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Pass => 0,
            Exit::Fail => 1,
            Exit::NotChecked => 2,
        })
    }
}

/// The error and its causes, one a line.
pub fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n  because: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_what_they_caused() {
        let error = anyhow::anyhow!("inner").context("outer");
        assert_eq!(chain(&error), "outer\n  because: inner");
    }
}
