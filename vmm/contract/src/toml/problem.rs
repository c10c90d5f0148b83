//! What is wrong with a contract's text, and where.

use std::fmt::{self, Write};
use std::ops::Range;

/// Longest line that is shown; what is beyond is cut off.
const SHOWN_CHARS: usize = 120;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Bytes of the text that it is about, if it is about any.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong.
    pub(super) message: String,
    /// What to write instead.
    pub(super) help: String,
}

impl Problem {
    /// A problem of the text between `span.start` and `span.end`.
    pub(super) fn new(
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            span: Some(span),
            message: message.into(),
            help: help.into(),
        }
    }

    /// What TOML or the schema find.
    pub(super) fn of_toml(error: &toml::de::Error) -> Self {
        Self {
            span: error.span(),
            message: error.message().to_owned(),
            help: String::new(),
        }
    }
}

/// Everything that is wrong with a contract's text, each with file, line and column,
/// the line itself, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    rendered: String,
}

impl Problems {
    pub(super) fn new(file: &str, text: &str, problems: &[Problem]) -> Self {
        let mut rendered = String::new();
        for problem in problems {
            // Writing to a String never fails.
            let _ = render(&mut rendered, file, text, problem);
        }
        Self {
            rendered: rendered.trim_end().to_owned(),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

impl std::error::Error for Problems {}

fn render(to: &mut String, file: &str, text: &str, problem: &Problem) -> fmt::Result {
    let Problem {
        span,
        message,
        help,
    } = problem;
    // Both may quote what the text holds, escapes resolved.
    let message = clean(message);
    match span {
        None => writeln!(to, "{file}: {message}")?,
        Some(span) => {
            let place = Place::of(text, span);
            let number = place.line.to_string();
            let margin = " ".repeat(number.len());
            writeln!(to, "{file}:{number}:{}: {message}", place.column)?;
            writeln!(to, " {number} | {}", place.shown)?;
            writeln!(to, " {margin} | {}{}", place.before, place.marks)?;
        }
    }
    for line in help.lines() {
        writeln!(to, "   {}", clean(line))?;
    }
    Ok(())
}

/// A span of a text as a person looks for it.
struct Place {
    /// Number of the line, from 1.
    line: usize,
    /// Number of the character in it, from 1.
    column: usize,
    /// The line.
    shown: String,
    /// As much room as the line takes before the span.
    before: String,
    /// Marks below the span's part of the line.
    marks: String,
}

impl Place {
    fn of(text: &str, span: &Range<usize>) -> Self {
        let start = boundary(text, span.start);
        let end = boundary(text, span.end).max(start);
        let (head, tail) = text.split_at(start);
        let before = head.rsplit('\n').next().unwrap_or_default();
        let rest = tail.split('\n').next().unwrap_or_default();
        let marked = rest.chars().count().min(text[start..end].chars().count());
        let column = before.chars().count();
        let shown: String = before.chars().chain(rest.chars()).collect();
        Self {
            line: head.matches('\n').count() + 1,
            column: column + 1,
            shown: clean(&shown).chars().take(SHOWN_CHARS).collect(),
            before: before
                .chars()
                .map(|it| if it == '\t' { '\t' } else { ' ' })
                .take(SHOWN_CHARS)
                .collect(),
            marks: "^".repeat(marked.clamp(1, SHOWN_CHARS.saturating_sub(column).max(1))),
        }
    }
}

/// Largest character boundary at or below `at`.
fn boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A line without what would move the terminal's cursor or turn the order of what is shown
/// (Unicode's embeddings, overrides and isolates of direction).
fn clean(line: &str) -> String {
    let turns = |it: char| matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let safe = |it: char| it == '\t' || !(it.is_control() || turns(it));
    line.chars()
        .map(|it| if safe(it) { it } else { '?' })
        .collect()
}
