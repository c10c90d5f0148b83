//! Link gpa -> hpa: the live EPT or NPT of this VM, read in the host kernel's
//! memory. What it finds is held against the frame that the host gave to the page.

use std::cell::RefCell;
use std::io;
use std::sync::OnceLock;

use addr::{Gpa, Hpa, PAGE_SIZE, Pfn};
use monitor::{MESSAGE_AREA, MemSlot, Vm, VmError};
pub use second_level::Kind;
use second_level::{Host, Kcore, RootError, Tables, Walked, WalkedRun};
use walk::{Spte, Translation};

/// Why the tables cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// Not on this host.
    #[error(transparent)]
    Host(&'static second_level::Error),
    /// Not those of this vCPU.
    #[error("the root of the second-level tables")]
    Root(#[from] RootError),
    /// The vCPU cannot be named.
    #[error("the vCPU at the doorbell")]
    Vcpu(#[from] VmError),
}

/// How a page came into the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroughtIn {
    /// It was there.
    Already,
    /// KVM was made to map it (`KVM_PRE_FAULT_MEMORY`).
    Now,
    /// It is not there, and KVM will not map it.
    Refused(String),
    /// It is not there, and this KVM maps nothing without an access of the guest.
    Unsupported(String),
}

/// What the tables have for a page.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The walk.
    pub walked: Walked,
    /// What KVM means by the entry that ended it.
    pub means: Option<Spte>,
    /// How it came to be there.
    pub brought_in: BroughtIn,
}

/// The running kernel, opened once: its types and symbols do not change.
///
/// # Errors
/// [`TablesError::Host`], with what would help.
pub fn host() -> Result<&'static Host, TablesError> {
    static HOST: OnceLock<Result<Host, second_level::Error>> = OnceLock::new();
    HOST.get_or_init(Host::open)
        .as_ref()
        .map_err(TablesError::Host)
}

/// The tables that the vCPU at the doorbell uses.
///
/// Each is read once, when a walk first comes through it, and what was read is evidence
/// only while nobody changes it. The guest does not: this value borrows its [`Vm`], which
/// takes a `&mut` to run. KVM does when it is made to map a page, after which all is read
/// anew. What the host changes by itself (it moves a page, it takes a root away) is found
/// out by others: by the pagemap, upon which whoever looks calls [`LiveTables::reread`],
/// and by [`LiveTables::are_in_force`].
pub struct LiveTables<'vm> {
    vm: &'vm Vm,
    tables: RefCell<Tables<'static, Kcore>>,
}

impl<'vm> LiveTables<'vm> {
    /// Finds their root. Where there is none yet, KVM is made to take one.
    ///
    /// # Errors
    /// [`TablesError`]; with [`RootError::Retired`] until the guest has run again.
    pub fn of(vm: &'vm Vm) -> Result<Self, TablesError> {
        let tables = match current(vm) {
            // A retired root is left alone: with one, Linux 6.12 pre-faults in a
            // loop that only a signal ends.
            Err(TablesError::Root(RootError::NoRoot)) => {
                // Where this is refused there still is no root, which is then said.
                let _ = vm.prefault(MESSAGE_AREA, PAGE_SIZE);
                current(vm)?
            }
            other => other?,
        };
        Ok(Self {
            vm,
            tables: RefCell::new(tables),
        })
    }

    /// The root.
    pub fn root(&self) -> second_level::Root {
        self.tables.borrow().root()
    }

    /// What they have for `gpa` now, without any attempt to change it.
    pub fn look(&self, gpa: Gpa) -> Entry {
        self.entry(gpa, BroughtIn::Already)
    }

    /// Whether the vCPU still uses them, and its VM has the memslots that it had. When
    /// it does not, nothing that they said is evidence.
    pub fn are_in_force(&self) -> bool {
        let tables = self.tables.borrow();
        // The VM is borrowed, and keeps the vCPU's descriptor open.
        host().is_ok_and(|host| host.root_now(&tables) == Ok(tables.root()))
    }

    /// What they have for `gpa`. A page that is not there is brought in, with what
    /// follows it in its memslot.
    ///
    /// # Errors
    /// [`TablesError`] when the root is lost over it.
    pub fn page(&self, gpa: Gpa) -> Result<Entry, TablesError> {
        let found = self.look(gpa);
        let absent = matches!(&found.walked, Err(error) if error.is_not_present());
        let slot = self
            .vm
            .memslots()
            .iter()
            .find(|slot| slot.translate(gpa).is_some());
        match slot {
            Some(_) if absent && !self.vm.can_prefault() => Ok(Entry {
                brought_in: BroughtIn::Unsupported(NO_PREFAULT.into()),
                ..found
            }),
            Some(slot) if absent => self.bring_in(gpa, slot),
            _ => Ok(found),
        }
    }

    /// The frames of the pages from `gpa` on that are mapped as `entry` maps the first,
    /// for at most `npages`; that of the first is one of them. Whether the processor has
    /// noted an access or a store of a page says nothing of how it is mapped.
    pub fn alike(&self, gpa: Gpa, entry: &Entry, npages: u64) -> Vec<Pfn> {
        let Ok(known) = &entry.walked else {
            return Vec::new();
        };
        let tables = self.tables.borrow();
        let (first, mut pfns) = tables.alike(gpa, npages);
        if !first.is_some_and(|first| first.as_ref() == Ok(known)) {
            return Vec::new();
        }
        loop {
            let count = pfns.len() as u64;
            let left = npages.saturating_sub(count);
            let next = count
                .checked_mul(PAGE_SIZE)
                .and_then(|bytes| gpa.page_base().checked_add(bytes))
                .filter(|_| left > 0);
            let Some((Some(Ok(found)), more)) = next.map(|next| tables.alike(next, left)) else {
                return pfns;
            };
            if more.is_empty() || !are_mapped_alike(known, &found) {
                return pfns;
            }
            pfns.extend(more);
        }
    }

    /// Hands all that they have from `start` on, for `len_bytes`, to `look`, run by run,
    /// until it has seen enough.
    pub fn runs(&self, start: Gpa, len_bytes: u64, look: impl FnMut(&WalkedRun<'_>) -> bool) {
        self.tables.borrow().runs(start, len_bytes, look);
    }

    /// Takes the root and the tables anew.
    pub fn reread(&self) {
        match current(self.vm) {
            Ok(tables) => *self.tables.borrow_mut() = tables,
            // The root that is known stands until another one does.
            Err(_) => self.tables.borrow().reread(),
        }
    }

    fn bring_in(&self, gpa: Gpa, slot: &MemSlot) -> Result<Entry, TablesError> {
        // Not with a root that was retired meanwhile.
        host()?.root(self.vm.vcpu_descriptor()?)?;
        let start = gpa.page_base();
        let before = start.checked_offset_from(slot.base).unwrap_or_default();
        let brought_in = match self.vm.prefault(start, slot.len_bytes - before) {
            Ok(()) => BroughtIn::Now,
            Err(VmError::Kvm { source, .. }) if lacks_prefault(&source) => {
                BroughtIn::Unsupported(format!("KVM_PRE_FAULT_MEMORY: {source}"))
            }
            Err(error) => BroughtIn::Refused(chain(&error)),
        };
        *self.tables.borrow_mut() = current(self.vm)?;
        Ok(self.entry(gpa, brought_in))
    }

    fn entry(&self, gpa: Gpa, brought_in: BroughtIn) -> Entry {
        let tables = self.tables.borrow();
        let walked = tables.walk(gpa);
        let last = match &walked {
            Ok(found) => found.steps.last().map(|step| step.raw),
            Err(error) => error.raw(),
        };
        Entry {
            means: last.map(|raw| tables.spte(raw)),
            walked,
            brought_in,
        }
    }
}

fn current(vm: &Vm) -> Result<Tables<'static, Kcore>, TablesError> {
    Ok(host()?.tables(vm.vcpu_descriptor()?)?)
}

/// Said of a page that no access of the guest has brought in on such a kernel.
const NO_PREFAULT: &str =
    "this kernel's KVM maps nothing without one (KVM_PRE_FAULT_MEMORY, from Linux 6.11 on)";

/// Under shadow paging the call is refused, and it may not come to an end.
fn lacks_prefault(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut
        || matches!(
            error.raw_os_error(),
            Some(libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP)
        )
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Whether two leaves grant and say the same, wherever they lead and whatever was done through
/// them so far.
fn are_mapped_alike(one: &Translation<Hpa>, other: &Translation<Hpa>) -> bool {
    let said = |leaf: &Translation<Hpa>| {
        let notes = (leaf.accessed.is_some(), leaf.dirty.is_some());
        (
            (leaf.page_size, leaf.access, leaf.memory_type),
            (leaf.global, leaf.pkey, leaf.ept, notes),
        )
    };
    said(one) == said(other)
}
