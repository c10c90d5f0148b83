//! Links of the chain of evidence.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// One link: a step on the way from a mapping to memory, with its own witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// What must be, stated before anything is looked at.
    Contract,
    /// gva -> gpa, by the guest's page tables.
    GuestWalk,
    /// gpa -> hva, by the VMM's memslots.
    Memslot,
    /// hva -> pfn, by the host kernel's pagemap.
    HostFrame,
    /// gpa -> hpa, by the live EPT or NPT.
    SecondLevel,
    /// What a load at the gva yields, and where a store at it arrives.
    Stamp,
}

impl Link {
    /// All links, in the order of the chain.
    pub const ALL: [Self; 6] = [
        Self::Contract,
        Self::GuestWalk,
        Self::Memslot,
        Self::HostFrame,
        Self::SecondLevel,
        Self::Stamp,
    ];

    /// The link's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Contract => "contract",
            Self::GuestWalk => "guest-walk",
            Self::Memslot => "memslot",
            Self::HostFrame => "host-frame",
            Self::SecondLevel => "second-level",
            Self::Stamp => "stamp",
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Link {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name);
        Self::ALL
            .into_iter()
            .find(|link| link.name() == name)
            .ok_or_else(|| format!("no link `{name}`; there are {}", known.join(", ")))
    }
}

/// For how many pages each link was witnessed and found in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Links {
    /// Pages whose contract was stated.
    pub contract: u64,
    /// Pages walked in the guest's tables.
    pub guest_walk: u64,
    /// Pages found in a memslot.
    pub memslot: u64,
    /// Pages whose host frame was read.
    pub host_frame: u64,
    /// Pages walked in the second-level tables.
    pub second_level: u64,
    /// Pages whose content was read, and written where that is allowed.
    pub stamp: u64,
}

impl Links {
    /// The count of `link`.
    pub const fn get(&self, link: Link) -> u64 {
        match link {
            Link::Contract => self.contract,
            Link::GuestWalk => self.guest_walk,
            Link::Memslot => self.memslot,
            Link::HostFrame => self.host_frame,
            Link::SecondLevel => self.second_level,
            Link::Stamp => self.stamp,
        }
    }

    /// Counts `npages` more pages for `link`.
    pub const fn count(&mut self, link: Link, npages: u64) {
        let field = match link {
            Link::Contract => &mut self.contract,
            Link::GuestWalk => &mut self.guest_walk,
            Link::Memslot => &mut self.memslot,
            Link::HostFrame => &mut self.host_frame,
            Link::SecondLevel => &mut self.second_level,
            Link::Stamp => &mut self.stamp,
        };
        *field = field.saturating_add(npages);
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        self.contract += other.contract;
        self.guest_walk += other.guest_walk;
        self.memslot += other.memslot;
        self.host_frame += other.host_frame;
        self.second_level += other.second_level;
        self.stamp += other.stamp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_links_are_one_to_one() {
        for link in Link::ALL {
            assert_eq!(link.name().parse(), Ok(link));
        }
        let error = "stamps".parse::<Link>().expect_err("unknown");
        assert!(error.contains("stamp") && error.contains("second-level"));
    }

    #[test]
    fn each_link_has_its_own_count() {
        for link in Link::ALL {
            let mut links = Links::default();
            links.count(link, 1);
            let counts = Link::ALL.map(|other| links.get(other));
            assert_eq!(counts.iter().sum::<u64>(), 1);
            assert_eq!(links.get(link), 1);
        }
    }
}
