//! The serial line's output, kept for whoever asks what the guest said.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// Most bytes kept; a guest that prints for ever costs no more.
const KEEP_BYTES: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Text {
    bytes: Vec<u8>,
    /// Start of the first line that [`Console::take_lines`] has not given yet.
    untaken: usize,
    /// Rung at the end of each line.
    line: Option<EventFd>,
}

/// Shared log of the console. Cloning gives another handle to the same log.
#[derive(Clone, Default)]
pub struct Console(Arc<Mutex<Text>>);

impl Console {
    /// A log that rings `line`, when there is one, at the end of each line.
    pub(crate) fn new(line: Option<EventFd>) -> Self {
        let text = Text {
            line,
            ..Text::default()
        };
        Self(Arc::new(Mutex::new(text)))
    }

    fn with<T>(&self, read: impl FnOnce(&mut Text) -> T) -> T {
        read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is kept now, for [`Console::restore`].
    pub(crate) fn saved(&self) -> Text {
        self.with(|text| Text {
            bytes: text.bytes.clone(),
            untaken: text.untaken,
            line: None,
        })
    }

    /// Forgets what was printed after `saved`.
    pub(crate) fn restore(&self, saved: &Text) {
        self.with(|text| {
            text.bytes.clone_from(&saved.bytes);
            text.untaken = saved.untaken;
        });
    }

    /// The bytes that are kept, for [`Console::resume`].
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.with(|text| text.bytes.clone())
    }

    /// Takes `bytes` for what was printed so far.
    pub(crate) fn resume(&self, bytes: Vec<u8>) {
        self.with(|text| {
            text.bytes = bytes;
            text.untaken = 0;
        });
    }

    /// All that is kept, as text that is safe to show: what is not UTF-8 is replaced, and
    /// so is what would steer a terminal.
    pub fn text(&self) -> String {
        self.with(|text| shown(&text.bytes))
    }

    /// How many bytes are kept; another number once anything was printed.
    pub fn len_bytes(&self) -> usize {
        self.with(|text| text.bytes.len())
    }

    /// The last `count` lines, oldest first.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }

    /// The whole lines that arrived since the last call.
    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.with(|text| {
            let new = &text.bytes[text.untaken..];
            let end = new.iter().rposition(|byte| *byte == b'\n');
            let new = &new[..end.map_or(0, |end| end + 1)];
            text.untaken += new.len();
            shown(new)
                .lines()
                .map(|line| line.trim_end().to_owned())
                .collect()
        })
    }

    /// The first line that contains `needle`.
    pub fn find_line(&self, needle: &str) -> Option<String> {
        self.text()
            .lines()
            .find(|line| line.contains(needle))
            .map(str::to_owned)
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|text| {
            text.bytes.extend_from_slice(bytes);
            if let (Some(line), true) = (&text.line, bytes.contains(&b'\n')) {
                // A counter that is full has been rung already.
                let _ = line.write(1);
            }
            if text.bytes.len() > 2 * KEEP_BYTES {
                text.forget_oldest();
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a guest printed, without what would steer the terminal that shows it.
fn shown(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).replace('\r', "");
    if text.contains(steers) {
        text = text.replace(steers, "?");
    }
    text
}

fn steers(one: char) -> bool {
    one.is_control() && one != '\n' && one != '\t'
}

impl Text {
    fn forget_oldest(&mut self) {
        let surplus = self.bytes.len() - KEEP_BYTES;
        self.bytes.drain(..surplus);
        self.untaken = self.untaken.saturating_sub(surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_prints_for_ever_costs_bounded_memory() {
        let mut console = Console::new(None);
        for _ in 0..5000 {
            console.write_all(&[b'x'; 1023]).expect("never fails");
            console.write_all(b"\n").expect("never fails");
        }
        console.write_all(b"last words\n").expect("never fails");
        assert!(console.text().len() <= 2 * KEEP_BYTES);
        assert_eq!(console.tail(1), ["last words"]);
    }

    #[test]
    fn lines_are_taken_once_and_whole() {
        let mut console = Console::new(None);
        console.write_all(b"one\r\ntwo\nthr").expect("never fails");
        assert_eq!(console.take_lines(), ["one", "two"]);
        console.write_all(b"ee\n").expect("never fails");
        assert_eq!(console.take_lines(), ["three"]);
        assert!(console.take_lines().is_empty());
    }

    #[test]
    fn a_guest_does_not_steer_the_terminal() {
        let mut console = Console::new(None);
        console
            .write_all("a\x1b[2J\tb\u{9b}2Jc\r\n".as_bytes())
            .expect("never fails");
        assert_eq!(console.text(), "a?[2J\tb?2Jc\n");
        assert_eq!(console.take_lines(), ["a?[2J\tb?2Jc"]);
    }

    #[test]
    fn bytes_of_any_kind_are_kept_as_text() {
        let mut console = Console::new(None);
        console
            .write_all(b"\xff\xfe ok\r\nnext")
            .expect("never fails");
        assert_eq!(console.tail(9), ["\u{fffd}\u{fffd} ok", "next"]);
        assert_eq!(
            console.find_line("ok").as_deref(),
            Some("\u{fffd}\u{fffd} ok")
        );
        assert_eq!(console.find_line("panic"), None);
    }
}
