//! The `mapwitness` command.
fn main() {}
