//! The kernels that the software host is known to run, and the choice among them.
//!
//! What is read in a kernel's memory must not depend on the layout of one of them, so
//! there are several, some years apart.

use std::env;

use super::Error;

/// Chooses the software host's kernel by its series, such as `6.1`.
pub const KERNEL_VARIABLE: &str = "MAPWITNESS_HOST_KERNEL";

/// A kernel of the distribution's.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// As in [`KERNEL_VARIABLE`].
    pub series: &'static str,
    /// What the names of its packages begin with. The first has the kernel's image.
    pub packages: &'static [&'static str],
    /// How they go on in the version that the software host was tried with.
    pub pinned: &'static str,
    /// How they go on in what is taken when the archive has moved on.
    pub pattern: &'static str,
    /// Suites to look in together, and what to try after them: some may have left the
    /// archive.
    pub suites: &'static [&'static [&'static str]],
    /// What it needs to reach its root file system and is not built in, in the order
    /// of loading.
    pub early_modules: &'static [&'static str],
}

/// The first is taken when none is asked for.
pub const KNOWN: [Known; 3] = [
    Known {
        series: "6.12",
        packages: &["linux-image-"],
        pinned: "6.12.117+deb12-cloud-amd64",
        pattern: r"6\.12\.[0-9]+\+deb1[23](\.[0-9]+)?-cloud-amd64",
        suites: &[&["bookworm-security"], &["trixie-security"], &["trixie"]],
        early_modules: &[],
    },
    Known {
        series: "6.1",
        packages: &["linux-image-"],
        pinned: "6.1.0-48-cloud-amd64",
        pattern: r"6\.1\.0-[0-9]+-cloud-amd64",
        suites: &[&["bookworm", "bookworm-security"]],
        early_modules: &[
            "kernel/drivers/virtio/virtio.ko",
            "kernel/drivers/virtio/virtio_ring.ko",
            "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
            "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
            "kernel/drivers/virtio/virtio_pci.ko",
            "kernel/drivers/char/virtio_console.ko",
            "kernel/fs/fuse/fuse.ko",
            "kernel/fs/fuse/virtiofs.ko",
        ],
    },
    Known {
        series: "7.3",
        packages: &["linux-binary-", "linux-modules-"],
        pinned: "7.3.4+deb13-cloud-amd64",
        // The suite keeps the newest ones only.
        pattern: r"7\.[0-9]+\.[0-9]+\+deb1[34]-cloud-amd64",
        suites: &[&["trixie-backports"]],
        early_modules: &[],
    },
];

impl Known {
    /// Name of the package with the image, in the pinned version.
    pub fn pinned_name(&self) -> String {
        format!("{}{}", self.image_prefix(), self.pinned)
    }

    /// What that name is to match in any version, as an extended regular expression.
    pub fn name_pattern(&self) -> String {
        format!("{}{}", self.image_prefix(), self.pattern)
    }

    /// The packages that belong to the one with the image, whose name is given.
    pub fn companions(&self, image_package: &str) -> Vec<String> {
        let rest = image_package.strip_prefix(self.image_prefix());
        let others = self.packages.iter().skip(1);
        others
            .filter_map(|prefix| Some(format!("{prefix}{}", rest?)))
            .collect()
    }

    /// All suites, for a person.
    pub fn all_suites(&self) -> String {
        self.suites.concat().join(", ")
    }

    fn image_prefix(&self) -> &'static str {
        self.packages.first().copied().unwrap_or_default()
    }
}

/// The kernel that the environment asks for, or the first.
///
/// # Errors
/// [`Error::Unknown`].
pub fn wished() -> Result<&'static Known, Error> {
    match env::var_os(KERNEL_VARIABLE) {
        Some(value) if !value.is_empty() => named(&value.to_string_lossy()),
        _ => Ok(&KNOWN[0]),
    }
}

fn named(series: &str) -> Result<&'static Known, Error> {
    KNOWN
        .iter()
        .find(|known| known.series == series)
        .ok_or_else(|| Error::Unknown {
            series: series.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_chosen_by_its_series() {
        assert_eq!(named("6.1").expect("known").series, "6.1");
        let error = named("5.10").expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "MAPWITNESS_HOST_KERNEL: no kernel `5.10`; there are 6.12, 6.1, 7.3"
        );
    }

    #[test]
    fn packages_of_one_version_belong_together() {
        let split = named("7.3").expect("known");
        assert_eq!(
            split.companions("linux-binary-7.3.9+deb13-cloud-amd64"),
            ["linux-modules-7.3.9+deb13-cloud-amd64"]
        );
        assert!(KNOWN[0].companions(&KNOWN[0].pinned_name()).is_empty());
    }
}
