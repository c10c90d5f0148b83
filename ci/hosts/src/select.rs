//! Which host a check runs on.

use std::env;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::str::FromStr;

use crate::probe::{Probe, probe};

/// Chooses the host: `kvm`, `soft-npt`, `soft-ept` or `auto`.
pub const HOST_VARIABLE: &str = "MAPWITNESS_HOST";
/// Set for carried processes to the name of the software host around them.
pub const INSIDE_VARIABLE: &str = "MAPWITNESS_INSIDE";

/// A kind of host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostKind {
    /// KVM of the machine that the process runs on.
    Kvm,
    /// A stock kernel with kvm_amd in QEMU's software emulation.
    SoftNpt,
    /// A stock kernel with kvm_intel in Bochs. Slower, and never chosen unasked.
    SoftEpt,
}

impl HostKind {
    /// Its name, as in [`HOST_VARIABLE`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::SoftNpt => "soft-npt",
            Self::SoftEpt => "soft-ept",
        }
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// The best that works.
    #[default]
    Auto,
    /// This one or none.
    Only(HostKind),
}

/// The value names no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` names no host; use kvm, soft-npt, soft-ept or auto")]
pub struct UnknownHost {
    /// What was given.
    pub value: String,
}

impl FromStr for Wish {
    type Err = UnknownHost;

    fn from_str(value: &str) -> Result<Self, UnknownHost> {
        match value {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Only(HostKind::Kvm)),
            "soft-npt" => Ok(Self::Only(HostKind::SoftNpt)),
            "soft-ept" => Ok(Self::Only(HostKind::SoftEpt)),
            _ => Err(UnknownHost {
                value: value.to_owned(),
            }),
        }
    }
}

/// A host and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The host.
    pub kind: HostKind,
    /// Why, for a person.
    pub reason: String,
    /// The software host that this process already runs inside of.
    pub inside: Option<HostKind>,
}

/// Why no host was chosen.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The parameter or the environment names no host.
    #[error("{origin}: {source}")]
    Unknown {
        /// Where the name stands.
        origin: &'static str,
        /// The name.
        source: UnknownHost,
    },
    /// KVM was asked for and is not there to be used.
    #[error(
        "host kvm was asked for, but {0}; leave the choice to the program, or ask for soft-npt"
    )]
    KvmUnusable(Probe),
    /// This process was carried, but the software host has no working KVM.
    #[error("inside the software host {inside}: {probe}; please report this")]
    BrokenInside {
        /// The software host.
        inside: String,
        /// What its KVM does.
        probe: Probe,
    },
}

/// Chooses a host. A given `wish` goes before [`HOST_VARIABLE`]; inside a software
/// host the answer is always its own KVM.
///
/// # Errors
/// [`SelectError`] when a name is unknown or what was asked for does not work.
pub fn choose(wish: Option<Wish>) -> Result<Choice, SelectError> {
    if let Some(inside) = env::var_os(INSIDE_VARIABLE) {
        return choose_inside(&inside.to_string_lossy(), &probe());
    }
    let wish = match wish {
        Some(wish) => wish,
        None => wish_of_environment()?,
    };
    match wish {
        // A probe would tell nothing that matters here.
        Wish::Only(kind @ (HostKind::SoftNpt | HostKind::SoftEpt)) => Ok(Choice {
            kind,
            reason: "it was asked for".to_owned(),
            inside: None,
        }),
        _ => decide(wish, &probe(), pagemap_shows_frames()),
    }
}

fn wish_of_environment() -> Result<Wish, SelectError> {
    match env::var_os(HOST_VARIABLE) {
        Some(value) if !value.is_empty() => {
            value
                .to_string_lossy()
                .parse()
                .map_err(|source| SelectError::Unknown {
                    origin: HOST_VARIABLE,
                    source,
                })
        }
        _ => Ok(Wish::Auto),
    }
}

fn choose_inside(inside: &str, probe: &Probe) -> Result<Choice, SelectError> {
    let around = match (inside.parse(), probe) {
        (Ok(Wish::Only(kind)), Probe::Usable { .. }) => kind,
        (Err(source), _) => {
            return Err(SelectError::Unknown {
                origin: INSIDE_VARIABLE,
                source,
            });
        }
        _ => {
            return Err(SelectError::BrokenInside {
                inside: inside.to_owned(),
                probe: probe.clone(),
            });
        }
    };
    Ok(Choice {
        kind: HostKind::Kvm,
        reason: format!("inside {around}, {probe}"),
        inside: Some(around),
    })
}

fn decide(wish: Wish, probe: &Probe, frames_visible: bool) -> Result<Choice, SelectError> {
    let usable = matches!(probe, Probe::Usable { .. });
    let choice = |kind, reason| Choice {
        kind,
        reason,
        inside: None,
    };
    match wish {
        Wish::Only(kind @ (HostKind::SoftNpt | HostKind::SoftEpt)) => {
            Ok(choice(kind, "it was asked for".into()))
        }
        Wish::Only(HostKind::Kvm) if !usable => Err(SelectError::KvmUnusable(probe.clone())),
        Wish::Only(HostKind::Kvm) => Ok(choice(HostKind::Kvm, probe.to_string())),
        Wish::Auto if usable && frames_visible => Ok(choice(HostKind::Kvm, probe.to_string())),
        // In the software host this user is root, and evidence is complete.
        Wish::Auto if usable => Ok(choice(
            HostKind::SoftNpt,
            format!(
                "{probe}, but /proc/self/pagemap hides frames from this user; \
                 run as root to use kvm"
            ),
        )),
        Wish::Auto => Ok(choice(HostKind::SoftNpt, probe.to_string())),
    }
}

/// Whether /proc/self/pagemap tells frames to this process. Without CAP_SYS_ADMIN
/// it says that a page is present, in frame 0
/// (Documentation/admin-guide/mm/pagemap.rst).
pub fn pagemap_shows_frames() -> bool {
    let page = Box::new(1_u64);
    let address = ptr::from_ref(&*page).addr() as u64;
    frame_of(address).is_ok_and(|frame| frame != Some(0) && frame.is_some())
}

fn frame_of(address: u64) -> io::Result<Option<u64>> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, address / 4096 * 8)?;
    let entry = u64::from_le_bytes(entry);
    Ok((entry & PRESENT != 0).then_some(entry & FRAME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Failure, SecondLevel, Vendor};

    const WORKS: Probe = Probe::Usable {
        vendor: Vendor::KvmIntel,
        second_level: SecondLevel::Ept,
    };
    const FOREIGN: Probe = Probe::Foreign {
        vendor: Vendor::KvmPvm,
        failure: Failure::InternalError { suberror: 1 },
    };

    fn kind(wish: Wish, probe: &Probe, frames: bool) -> Option<HostKind> {
        decide(wish, probe, frames).ok().map(|choice| choice.kind)
    }

    #[test]
    fn automatic_takes_kvm_only_when_it_gives_all_evidence() {
        assert_eq!(kind(Wish::Auto, &WORKS, true), Some(HostKind::Kvm));
        assert_eq!(kind(Wish::Auto, &WORKS, false), Some(HostKind::SoftNpt));
        for probe in [FOREIGN, Probe::NoDevice, Probe::NoPermission] {
            assert_eq!(kind(Wish::Auto, &probe, true), Some(HostKind::SoftNpt));
        }
    }

    #[test]
    fn what_was_asked_for_is_not_replaced() {
        let kvm = Wish::Only(HostKind::Kvm);
        assert_eq!(kind(kvm, &WORKS, false), Some(HostKind::Kvm));
        let error = decide(kvm, &FOREIGN, true).expect_err("unusable");
        assert!(error.to_string().contains("kvm_pvm"), "{error}");
        for soft in [HostKind::SoftNpt, HostKind::SoftEpt] {
            assert_eq!(kind(Wish::Only(soft), &WORKS, true), Some(soft));
        }
    }

    #[test]
    fn an_unknown_name_is_told_with_the_known_ones() {
        let error = "bochs".parse::<Wish>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "`bochs` names no host; use kvm, soft-npt, soft-ept or auto"
        );
    }

    #[test]
    fn inside_a_software_host_there_is_nothing_to_choose() {
        let choice = choose_inside("soft-npt", &WORKS).expect("works");
        assert_eq!(
            (choice.kind, choice.inside),
            (HostKind::Kvm, Some(HostKind::SoftNpt))
        );
        assert!(choose_inside("soft-npt", &FOREIGN).is_err());
        assert!(choose_inside("elsewhere", &WORKS).is_err());
    }
}
