//! What a kernel prints when something is wrong with it.

/// Words of such lines.
const SIGNS: [&str; 14] = [
    "WARNING:",
    "BUG:",
    "kernel BUG",
    "Oops",
    "general protection fault",
    "KASAN",
    "UBSAN",
    "KFENCE",
    "Bad page",
    "bad page",
    "Bad rss-counter",
    "refcount_t:",
    "possible circular locking",
    "blocked for more than",
];

/// The lines of `text` by which a kernel complains of itself.
pub(crate) fn complaints(text: &str) -> Vec<&str> {
    let is_sign = |line: &&str| SIGNS.iter().any(|sign| line.contains(sign));
    text.lines().filter(is_sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_from_other_lines() {
        let text = "[1.0] mapwitness: bound\n[2.0] BUG: Bad page map in process init\nx\n";
        assert_eq!(
            complaints(text),
            ["[2.0] BUG: Bad page map in process init"]
        );
        assert!(complaints("nothing\n").is_empty());
    }
}
