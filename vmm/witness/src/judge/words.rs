//! Evidence and contracts in words, for whoever reads a mismatch.

use addr::Gpa;
use walk::{Steps, Translation};

use super::{Judge, Wanted, below};
use crate::contract::{Access, DevicePage};
use crate::leaf::Leaves;
use crate::memslot::Hit;

/// The rights of user space that a translation grants if it is one for user space.
pub(super) fn rights(found: &Translation<Gpa>) -> Access {
    Access {
        read: found.access.read,
        write: found.access.write,
        exec: found.access.exec,
    }
}

pub(super) fn slot_mode(read_only: bool) -> &'static str {
    if read_only { "read-only" } else { "writable" }
}

pub(super) fn slot(hit: &Hit) -> String {
    format!(
        "page {} of memslot {} ({:?}), {}",
        hit.page,
        hit.slot,
        hit.used_for,
        slot_mode(hit.read_only)
    )
}

impl Judge<'_> {
    pub(super) fn describe_wanted(&self, wanted: &Wanted) -> String {
        format!(
            "gpa {}, user {}, {}",
            self.plan.describe(wanted.gpa),
            wanted.access,
            wanted.memory_type
        )
    }

    pub(super) fn describe(&self, found: &Translation<Gpa>) -> String {
        let mode = if found.access.user { "user" } else { "kernel" };
        let mut text = format!(
            "gpa {}, {mode} {}, {}",
            self.plan.describe(found.address),
            rights(found),
            found.memory_type
        );
        if found.global {
            text.push_str(", global");
        }
        if let Some(key) = found.pkey.filter(|key| *key != 0) {
            text.push_str(&format!(", protection key {key}"));
        }
        text
    }

    pub(super) fn describe_stamp(&self, found: u64) -> String {
        match self.stamps.page_of(found) {
            Some(page) => format!("{found:#018x}, the stamp of {}", self.plan.name(page)),
            None => format!("{found:#018x}"),
        }
    }

    pub(super) fn describe_arrival(&self, arrived: &[DevicePage]) -> String {
        if arrived.is_empty() {
            return "it arrives nowhere in the device".into();
        }
        let names: Vec<String> = arrived.iter().map(|page| self.plan.name(*page)).collect();
        format!("it arrives in {}", names.join(", "))
    }

    pub(super) fn walk_lines(&self) -> Vec<String> {
        let (steps, end) = match &self.evidence.walked {
            Ok(found) => (Some(&found.steps), self.describe(found)),
            Err(error) => (error.steps(), error.to_string()),
        };
        steps
            .into_iter()
            .flat_map(Steps::iter)
            .map(|step| step.to_string())
            .chain([format!("-> {end}")])
            .collect()
    }

    pub(super) fn host_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(hit) = &self.evidence.slot {
            lines.push(format!("{}: hva {}", slot(hit), hit.hva));
        }
        if let Some(Ok(pfn)) = &self.evidence.slot_frame {
            lines.push(format!("host frame behind it: pfn {pfn}"));
        }
        if let Some(Ok(pfn)) = &self.evidence.device_frame {
            lines.push(format!("host frame of the expected page: pfn {pfn}"));
        }
        if let Some(Ok(entry)) = &self.evidence.second_level {
            lines.extend(below::lines(entry));
        }
        if let Some(leaves) = Leaves::of(self.evidence) {
            lines.push(format!("memory type: {leaves}"));
        }
        lines
    }
}
