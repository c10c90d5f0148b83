//! The threads through which a VM reaches KVM, by the kernel's own numbers.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Threads that have made KVM work for one VM, and for no other one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// Those that run vCPUs.
    pub vcpus: BTreeSet<i32>,
    /// Those that made KVM map memory without an access of the guest. They end with
    /// that, so that a number may be somebody else's by now.
    pub prefault: BTreeSet<i32>,
}

/// Numbers of threads that come and go.
#[derive(Debug, Default)]
pub(crate) struct Noted(Mutex<BTreeSet<i32>>);

impl Noted {
    pub(crate) fn note(&self, tid: i32) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(tid);
    }

    pub(crate) fn all(&self) -> BTreeSet<i32> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The number of the thread that calls.
pub(crate) fn current() -> i32 {
    // SAFETY: the call takes nothing, cannot fail and only tells a number.
    unsafe { libc::gettid() }
}
