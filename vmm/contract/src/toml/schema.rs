//! The keys of a contract in TOML, and the types of their values.

use std::fmt;

use ::toml::Spanned;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use walk::MemoryType;

use crate::access::Access;
use crate::device::RegisterSpec;
use crate::errno::Errno;
use crate::file::{Fork, Offset, When};
use crate::rules::{Condition, Refusal};
use crate::vma::VmaFlags;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) device: Spanned<Device>,
    #[serde(default)]
    pub(super) module: Module,
    #[serde(default, rename = "file")]
    pub(super) files: Vec<Spanned<File>>,
}

/// `[device]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) acpi_id: Spanned<String>,
    pub(super) registers: Option<Vec<Spanned<RegisterSpec>>>,
    #[serde(default, rename = "window")]
    pub(super) windows: Vec<Window>,
    #[serde(default, rename = "buffer")]
    pub(super) buffers: Vec<Buffer>,
}

/// `[[device.buffer]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Buffer {
    pub(super) name: Spanned<String>,
    pub(super) pages: Spanned<u32>,
}

/// `[[device.window]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Window {
    pub(super) name: Spanned<String>,
    pub(super) pages: Spanned<u64>,
    #[serde(default = "read_write")]
    pub(super) access: Spanned<Rights>,
    #[serde(default = "one_page")]
    pub(super) align_pages: Spanned<u64>,
}

/// `[module]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Module {
    pub(super) parameters: Option<Spanned<String>>,
}

/// `[[file]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) path: Spanned<String>,
    pub(super) name: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) refusals: Vec<Spanned<Rule>>,
    pub(super) private: Option<Spanned<Private>>,
    pub(super) refuses_writers: Option<Errno>,
    #[serde(default = "not_expandable")]
    pub(super) growth: Errno,
    pub(super) refuses_split: Option<Errno>,
    pub(super) vma: Option<Spanned<VmaFlags>>,
    #[serde(default = "copied")]
    pub(super) fork: Fork,
    #[serde(default, rename = "range")]
    pub(super) ranges: Vec<Spanned<Range>>,
}

/// An entry of `refusals`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    when: Condition,
    errno: Errno,
}

impl Rule {
    pub(super) const fn refusal(&self) -> Refusal {
        Refusal::new(self.when, self.errno)
    }
}

/// What a private mapping is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Private {
    CopyOnWrite,
}

/// `[[file.range]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Range {
    #[serde(default = "from_the_start")]
    pub(super) offset: Spanned<Start>,
    pub(super) pages: Option<Spanned<u64>>,
    pub(super) window: Option<Spanned<String>>,
    pub(super) buffer: Option<Spanned<String>>,
    #[serde(default = "first")]
    pub(super) first_page: Spanned<u64>,
    pub(super) access: Option<Spanned<Rights>>,
    pub(super) memory_type: Type,
    pub(super) present: Spanned<When>,
}

/// Rights such as `rw`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights(pub(super) Access);

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let has = |right| text.contains(right);
        let access = Access {
            read: true,
            write: has('w'),
            exec: has('x'),
        };
        match text.as_str() {
            "r" | "rw" | "rx" | "rwx" => Ok(Self(access)),
            _ => Err(de::Error::custom(
                "these are no rights; write \"r\", \"rw\", \"rx\" or \"rwx\"",
            )),
        }
    }
}

/// A memory type such as `uc-`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Type(#[serde(with = "crate::memory_type")] pub(super) MemoryType);

/// Where a range begins: a page of the file, or `any`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start(pub(super) Offset);

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StartVisitor)
    }
}

struct StartVisitor;

impl Visitor<'_> for StartVisitor {
    type Value = Start;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of the file, counted from 0, or \"any\"")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Start, E> {
        let page = u64::try_from(value);
        let page = page.map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
        Ok(Start(Offset::Page(page)))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Start, E> {
        Ok(Start(Offset::Page(value)))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Start, E> {
        match value {
            "any" => Ok(Start(Offset::Any)),
            _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
        }
    }
}

/// What stands nowhere in the file.
fn absent<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn read_write() -> Spanned<Rights> {
    absent(Rights(Access::READ_WRITE))
}

fn one_page() -> Spanned<u64> {
    absent(1)
}

fn first() -> Spanned<u64> {
    absent(0)
}

fn from_the_start() -> Spanned<Start> {
    absent(Start(Offset::Page(0)))
}

/// What the kernel answers for a vma with `VM_DONTEXPAND` or `VM_PFNMAP`.
fn not_expandable() -> Errno {
    Errno::EFAULT
}

/// What the kernel does with one that has `VM_PFNMAP` or `VM_MIXEDMAP`.
fn copied() -> Fork {
    Fork::Pages
}
