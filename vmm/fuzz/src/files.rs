//! Files that are there whole or not at all.

use std::io::{self, Write};
use std::path::Path;

/// Writes a file beside `path` and renames it: whoever is killed meanwhile leaves the
/// old one or the new one.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
