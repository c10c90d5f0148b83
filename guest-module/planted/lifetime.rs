// SPDX-License-Identifier: GPL-2.0

//! What becomes of mappings when their memory goes, and comes back.

use crate::mm::{spoil, FileMapping};
use kernel::{page::PAGE_SIZE, prelude::*};

pub(crate) fn zap(nth: usize, mapping: &FileMapping) {
    if planted!("zap-misses-first-page") {
        return spoil::unmap_part(mapping, PAGE_SIZE as i64, 0);
    }
    if planted!("zap-one-page-only") {
        return spoil::unmap_part(mapping, 0, PAGE_SIZE as i64);
    }
    if planted!("zap-first-file-only") && nth > 0 {
        return;
    }
    mapping.unmap_all();
}

pub(crate) fn answers(may_show: bool) -> bool {
    may_show || planted!("faults-while-revoked")
}

pub(crate) fn refuses(error: Error) -> Result {
    if planted!("maps-while-revoked") {
        return Ok(());
    }
    Err(error)
}

pub(crate) fn zaps_at_revoke() -> bool {
    !planted!("no-zap-at-revoke")
}

pub(crate) fn zaps_at_unbind() -> bool {
    !planted!("no-zap-at-unbind")
}

pub(crate) fn restores() -> bool {
    !planted!("never-restored")
}

pub(crate) fn takes_back() -> bool {
    !planted!("device-keeps-pages")
}
