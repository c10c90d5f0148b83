//! The device files that the battery goes through.

use std::sync::Arc;

use contract::{FileContract, When};
use witness::Plan;

use crate::own_driver::Strategy;

const fn eager(name: &'static str) -> Strategy {
    Strategy {
        name,
        present: When::AtMmap,
    }
}

const fn lazy(name: &'static str) -> Strategy {
    Strategy {
        name,
        present: When::OnTouch,
    }
}

/// One of each kind and hook: these are asked for everything.
pub(super) const BASE: [Strategy; 4] = [
    eager("eager"),
    lazy("lazy"),
    eager("prepare-eager"),
    lazy("prepare-lazy"),
];
/// Those that differ in how the entries come to be.
pub(super) const OTHERS: [Strategy; 8] = [
    eager("remap"),
    eager("iomap"),
    lazy("prot"),
    lazy("whole"),
    eager("prepare-remap"),
    eager("prepare-iomap"),
    lazy("prepare-prot"),
    lazy("prepare-whole"),
];
/// Those that map 2 MiB where they fit.
pub(super) const HUGE: [Strategy; 2] = [lazy("huge"), lazy("prepare-huge")];
/// Those that bring in what lies around the page that is touched.
pub(super) const AROUND: [Strategy; 2] = [lazy("around"), lazy("prepare-around")];

/// The window on which most is tried.
pub(super) const WINDOW: &str = "odd";
/// The window that may only be read.
pub(super) const READ_ONLY: &str = "readonly";
/// The window in which 2 MiB fit.
pub(super) const LARGE: &str = "large";

/// The file of a strategy for the window of this name.
pub(super) fn file(plan: &Plan, strategy: Strategy, window: &str) -> Option<Arc<FileContract>> {
    let index = plan.windows.iter().position(|one| one.name == window)?;
    strategy.file(plan, index).map(Arc::new)
}

/// Files of these strategies, for each of these windows.
pub(super) fn files(
    plan: &Plan,
    strategies: &[Strategy],
    windows: &[&str],
) -> Vec<Arc<FileContract>> {
    let of_window = |window: &&str| {
        let files = strategies.iter().map(|one| file(plan, *one, window));
        files.collect::<Vec<_>>()
    };
    windows.iter().flat_map(of_window).flatten().collect()
}

/// Every file, for the driver.
pub(super) fn all(plan: &Plan) -> Vec<Arc<FileContract>> {
    let mut all = files(plan, &BASE, &[WINDOW, READ_ONLY]);
    all.extend(files(plan, &OTHERS, &[WINDOW]));
    all.extend(files(plan, &AROUND, &[WINDOW]));
    all.extend(files(plan, &HUGE, &[LARGE]));
    all
}
