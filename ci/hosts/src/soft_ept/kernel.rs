//! The stock kernel, unpacked as it will lie in memory.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use provision::{Cache, Key, Progress, cache};

use super::elf::Elf;
use crate::kernel::StockKernel;

/// Kind of the cache entry.
const KIND: &str = "soft-ept-kernel";
/// Changes when what is made of the kernel changes.
const RECIPE: &str = "1: segments of vmlinux in one piece; modules without signature";
/// In the cache entry.
const IMAGE: &str = "kernel.bin";
const LAYOUT: &str = "layout";

/// Where a bzImage says where its compressed kernel is: `setup_sects`,
/// `payload_offset`, `payload_length` (Documentation/arch/x86/boot.rst).
const SETUP_SECTORS_AT: usize = 0x1f1;
const PAYLOAD_OFFSET_AT: usize = 0x248;
const PAYLOAD_LENGTH_AT: usize = 0x24c;
const SECTOR_LEN_BYTES: usize = 512;
/// What the compressed kernel begins with (RFC 8878).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Behind it stands the length of what was compressed, as the boot protocol has it.
const TRAILER_LEN_BYTES: usize = 4;
/// A kernel that would leave no memory for anything else.
const LONGEST_BYTES: u64 = 256 << 20;

/// How a signed module ends, and the length of what stands before: `module_signature`
/// of include/linux/module_signature.h, whose last member is the signature's length.
const SIGNED: &[u8] = b"~Module signature appended~\n";
const SIGNATURE_INFO_LEN_BYTES: usize = 12;

/// A kernel ready to be put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatKernel {
    /// Package and version.
    pub origin: String,
    /// Its bytes in memory, from `start` on.
    pub image: PathBuf,
    /// Modules in the order of loading.
    pub modules: Vec<PathBuf>,
    /// Where things lie.
    pub layout: Layout,
}

/// Physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layout {
    /// First byte.
    pub start: u64,
    /// First byte behind, also behind what the kernel wants zeroed.
    pub end: u64,
    /// 32-bit PVH entry.
    pub entry: u32,
}

/// Why it cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// It is not as expected.
    #[error("the kernel {path} cannot be entered directly: {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The kernel, unpacked if the cache does not have it.
///
/// # Errors
/// [`Error`], when it cannot be unpacked.
pub fn ensure(
    stock: &StockKernel,
    cache: &Cache,
    progress: &Progress,
) -> Result<FlatKernel, Error> {
    let mut key = Key::new()
        .text("recipe", RECIPE)
        .file("vmlinuz", &stock.image)?;
    for module in &stock.intel_modules {
        key = key.file("module", module)?;
    }
    let entry = cache.get_or_build(KIND, &key, progress, |dir| {
        let step = progress.step("unpack the kernel for soft-ept", None);
        unpack(stock, dir)?;
        step.done(&stock.origin);
        Ok::<(), Error>(())
    })?;
    let path = entry.join(LAYOUT);
    let bytes = fs::read(&path).map_err(at("read", &path))?;
    let layout =
        postcard::from_bytes(&bytes).map_err(|error| at("read", &path)(io::Error::other(error)))?;
    let modules = stock.intel_modules.iter();
    Ok(FlatKernel {
        origin: stock.origin.clone(),
        image: entry.join(IMAGE),
        modules: modules
            .filter_map(|module| Some(entry.join(module.file_name()?)))
            .collect(),
        layout,
    })
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

fn unpack(stock: &StockKernel, dir: &Path) -> Result<(), Error> {
    let foreign = |what: &str| Error::Foreign {
        path: stock.image.clone(),
        what: what.to_owned(),
    };
    let packed = fs::read(&stock.image).map_err(at("read", &stock.image))?;
    let payload = payload(&packed).ok_or_else(|| foreign("it is no bzImage"))?;
    if !payload.starts_with(&ZSTD_MAGIC) {
        return Err(foreign("it is not compressed with zstd"));
    }
    let vmlinux = unzstd(payload).map_err(at("unpack", &stock.image))?;
    let (layout, image) = flatten(&vmlinux).map_err(|what| foreign(&what))?;
    let path = dir.join(IMAGE);
    fs::write(&path, image).map_err(at("write", &path))?;
    let path = dir.join(LAYOUT);
    let bytes = postcard::to_extend(&layout, Vec::new())
        .map_err(|error| at("write", &path)(io::Error::other(error)))?;
    fs::write(&path, bytes).map_err(at("write", &path))?;
    for module in &stock.intel_modules {
        let bytes = fs::read(module).map_err(at("read", module))?;
        let path = dir.join(module.file_name().unwrap_or_default());
        fs::write(&path, without_signature(&bytes)).map_err(at("write", &path))?;
    }
    Ok(())
}

/// The compressed kernel in a bzImage.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| {
        let bytes = image.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let sectors = match *image.get(SETUP_SECTORS_AT)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = ((sectors + 1) * SECTOR_LEN_BYTES).checked_add(number(PAYLOAD_OFFSET_AT)?)?;
    let len_bytes = number(PAYLOAD_LENGTH_AT)?.checked_sub(TRAILER_LEN_BYTES)?;
    image.get(start..start.checked_add(len_bytes)?)
}

fn unzstd(compressed: &[u8]) -> io::Result<Vec<u8>> {
    let mut zstd = Command::new("zstd")
        .args(["-d", "-c", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = zstd.stdin.take();
    let output = thread::scope(|scope| {
        // Its failure is seen in the status below.
        scope.spawn(move || input.take().map(|mut input| input.write_all(compressed)));
        zstd.wait_with_output()
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(io::Error::other(format!("zstd: {}", output.status)))
}

/// The segments of a vmlinux in one piece.
fn flatten(vmlinux: &[u8]) -> Result<(Layout, Vec<u8>), String> {
    let elf = Elf::parse(vmlinux).map_err(|error| error.to_string())?;
    let segments: Option<Vec<_>> = elf.loaded().collect();
    let segments = segments.ok_or("a segment leads out of the file")?;
    let start = segments.iter().map(|segment| segment.address).min();
    let ends = segments
        .iter()
        .map(|segment| segment.address.checked_add(segment.len_bytes));
    let end = ends.max().flatten();
    let (Some(start), Some(end)) = (start, end) else {
        return Err("it has no segments".to_owned());
    };
    let entry = elf.pvh_entry().ok_or("it has no PVH entry")?;
    if end - start > LONGEST_BYTES {
        return Err(format!("it takes {:#x} bytes of memory", end - start));
    }
    let mut image = Vec::new();
    for segment in segments {
        let at = usize::try_from(segment.address - start).map_err(|error| error.to_string())?;
        let behind = at + segment.bytes.len();
        if image.len() < behind {
            image.resize(behind, 0);
        }
        if let Some(place) = image.get_mut(at..behind) {
            place.copy_from_slice(segment.bytes);
        }
    }
    Ok((Layout { start, end, entry }, image))
}

/// Checking a signature takes hundreds of millions of emulated instructions; what is
/// signed is the stock kernel's own module all the same.
fn without_signature(module: &[u8]) -> &[u8] {
    let unsigned = || {
        let rest = module.strip_suffix(SIGNED)?;
        let len_bytes = usize::try_from(u32::from_be_bytes(*rest.last_chunk()?)).ok()?;
        let end = rest
            .len()
            .checked_sub(SIGNATURE_INFO_LEN_BYTES)?
            .checked_sub(len_bytes)?;
        module.get(..end)
    };
    unsigned().unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let mut signed = b"module".to_vec();
        signed.extend(b"sig");
        signed.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        signed.extend(SIGNED);
        assert_eq!(without_signature(&signed), b"module");
        assert_eq!(without_signature(b"module"), b"module");
        let mut wrong = vec![0xff; 12];
        wrong.extend(SIGNED);
        assert_eq!(without_signature(&wrong), wrong);
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert!(payload(&[0; 100]).is_none());
        assert!(payload(&[0xff; 0x1000]).is_none());
        assert!(flatten(b"no program").is_err());
        let program = fs::read("/proc/self/exe").expect("readable");
        let error = flatten(&program).expect_err("a program is no kernel");
        assert!(error.contains("PVH"), "{error}");
    }
}
