//! Finds the live second-level tables (EPT or NPT) of a VM of this process and
//! walks them.
//!
//! The way to the root, each step read in the memory of the running kernel:
//! `init_task` -> this process's `task_struct` -> its table of files -> the file
//! behind a vCPU's descriptor -> `kvm_vcpu` -> its `kvm_mmu` -> the root. Where
//! members lie is taken from the kernel's own BTF, where `init_task` lies from
//! /proc/kallsyms, and memory is read through /proc/kcore: no kernel module, no
//! BPF program, no constant that drifts from one kernel to the next.
//!
//! What is found is cross-checked: the descriptor's file operations must be those
//! of a vCPU, the VM's address space that of this process, and the root must stand
//! in KVM's own list of roots, unretired.
//!
//! Reading takes root (CAP_SYSLOG and CAP_SYS_RAWIO), a kernel with BTF, and no
//! lockdown. [`Host::open`] says what is missing. Kernel memory is untrusted input:
//! it changes while it is read, and no content can make this crate panic or loop.
//!
//! [`Host`] is opened once for a process; [`Host::tables`] takes the root anew each
//! time, since KVM exchanges it (after a change of memslots, for one).
#![forbid(unsafe_code)]

mod error;
mod find;
mod kcore;
mod layout;
mod memory;
mod processor;
mod root;
mod symbols;
mod tables;
#[cfg(test)]
mod tests;

use std::os::fd::RawFd;

pub use error::{Error, RootError};
pub use kcore::Kcore;
pub use memory::{HostMemory, ReadError};
pub use processor::{Kind, Processor};
pub use root::Root;
pub use tables::{Tables, Walked, WalkedRun};

use layout::Layout;
use symbols::Symbols;

/// Attempts to read a root that another processor may be exchanging.
const ATTEMPTS: usize = 3;

/// The running kernel as far as its second-level tables are concerned.
pub struct Host {
    memory: Kcore,
    layout: Layout,
    symbols: Symbols,
    processor: Processor,
    task: find::KnownTask,
}

impl Host {
    /// Opens all sources.
    ///
    /// # Errors
    /// [`Error`], with what would help.
    pub fn open() -> Result<Self, Error> {
        // What costs least goes first.
        let processor = Processor::of_this_host()?;
        let memory = Kcore::open()?;
        let symbols = Symbols::read()?;
        let layout = Layout::read()?;
        Ok(Self {
            memory,
            layout,
            symbols,
            processor,
            task: find::KnownTask::default(),
        })
    }

    /// What the tables are and how this host's processor reads them.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The tables that the vCPU behind `vcpu_fd`, a descriptor of this process,
    /// uses now. They are a snapshot: each table is read once, when a walk first
    /// comes through it.
    ///
    /// # Errors
    /// [`RootError`]; [`RootError::is_passing`] tells whether KVM will have a root
    /// once the guest has run.
    pub fn tables(&self, vcpu_fd: RawFd) -> Result<Tables<'_, Kcore>, RootError> {
        let found = self.found(vcpu_fd)?;
        Ok(Tables::new(&self.memory, &self.processor, found)?)
    }

    /// The root that this vCPU uses now.
    ///
    /// # Errors
    /// As [`Host::tables`].
    pub fn root(&self, vcpu_fd: RawFd) -> Result<Root, RootError> {
        self.found(vcpu_fd).map(|(_, root)| root)
    }

    /// The root that the vCPU of `tables` uses now; its descriptor must have been open all
    /// the while, so that it is where it was.
    ///
    /// # Errors
    /// As [`Host::tables`].
    pub fn root_now(&self, tables: &Tables<'_, Kcore>) -> Result<Root, RootError> {
        attempts(|| root::of_vcpu(&self.memory, &self.layout, tables.vcpu()))
    }

    fn found(&self, vcpu_fd: RawFd) -> Result<(root::Vcpu, Root), RootError> {
        attempts(|| {
            let vcpu = find::vcpu(
                &self.memory,
                &self.layout,
                &self.symbols,
                &self.task,
                vcpu_fd,
            )?;
            Ok((vcpu, root::of_vcpu(&self.memory, &self.layout, vcpu)?))
        })
    }
}

/// Looks again when another processor may have changed what was looked at.
fn attempts<T>(look: impl Fn() -> Result<T, RootError>) -> Result<T, RootError> {
    let mut attempt = 1;
    loop {
        match look() {
            Err(error) if attempt < ATTEMPTS && error.may_be_a_race() => attempt += 1,
            outcome => return outcome,
        }
    }
}
