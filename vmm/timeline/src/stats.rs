//! A buffer's own account of itself (`per_cpu/cpu*/stats`).

use crate::error::FormatError;

/// Counts of one CPU's buffer since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records that wait to be read.
    pub entries: u64,
    /// Records that were overwritten unread.
    pub overrun: u64,
    /// Records that a nested writer had no room for.
    pub commit_overrun: u64,
    /// Records that were turned away.
    pub dropped: u64,
    /// Records that were handed out.
    pub read: u64,
}

impl Stats {
    /// Reads the file.
    ///
    /// # Errors
    /// [`FormatError::Missing`] for a count that is not there: a loss would go
    /// unnoticed.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let count = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .strip_prefix(": ")?
                        .trim()
                        .parse()
                        .ok()
                })
                .ok_or_else(|| FormatError::Missing(name.to_owned()))
        };
        Ok(Self {
            entries: count("entries")?,
            overrun: count("overrun")?,
            commit_overrun: count("commit overrun")?,
            dropped: count("dropped events")?,
            read: count("read events")?,
        })
    }

    /// Records that found no room.
    pub const fn turned_away(&self) -> u64 {
        self.dropped.saturating_add(self.commit_overrun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "entries: 3\noverrun: 17\ncommit overrun: 1\nbytes: 96\n\
                        oldest event ts: 12\nnow ts: 99\ndropped events: 2\nread events: 40\n";

    #[test]
    fn every_count_is_found() {
        let stats = Stats::parse(FILE).expect("complete");
        let expected = Stats {
            entries: 3,
            overrun: 17,
            commit_overrun: 1,
            dropped: 2,
            read: 40,
        };
        assert_eq!(stats, expected);
    }

    #[test]
    fn a_count_that_is_missing_is_no_zero() {
        let without = FILE.replace("dropped events: 2\n", "");
        assert_eq!(
            Stats::parse(&without),
            Err(FormatError::Missing("dropped events".into()))
        );
    }
}
