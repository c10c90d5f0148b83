//! Which frame each page of a window had at a moment.

use std::fs;
use std::sync::Arc;

use addr::Pfn;
use monitor::Vm;

use crate::contract::DevicePage;
use crate::host_frame::{FrameError, Pagemap};

/// Frames of the windows' pages, `None` where one was on the move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames(Vec<Vec<Option<Pfn>>>);

impl Frames {
    /// Those of each window in turn.
    pub fn new(windows: Vec<Vec<Option<Pfn>>>) -> Self {
        Self(windows)
    }

    /// The frame of a device page.
    pub fn get(&self, page: DevicePage) -> Option<Pfn> {
        let window = self.0.get(page.window)?;
        *window.get(usize::try_from(page.page).ok()?)?
    }

    /// Whether a frame is one of them.
    pub fn has(&self, pfn: Pfn) -> bool {
        self.0.iter().flatten().any(|known| *known == Some(pfn))
    }
}

/// The host's own account of its frames at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The frames.
    pub frames: Arc<Frames>,
    /// How many pages the host has moved since it started; as long as that stands
    /// still, no page has moved away and back again. `None` where it is not told.
    pub moves: Option<u64>,
}

impl Ledger {
    /// Reads it. `before` is taken over when nothing moved since.
    ///
    /// # Errors
    /// [`FrameError`] when the kernel does not tell frames.
    pub fn of(vm: &Vm, before: Option<&Self>) -> Result<Self, FrameError> {
        // First, so that a move after it shows the next time.
        let moves = moves();
        if let Some(before) = before
            && moves.is_some()
            && before.moves == moves
        {
            return Ok(before.clone());
        }
        let pagemap = Pagemap::open()?;
        let mut windows = Vec::new();
        for window in vm.windows() {
            let mut frames = Vec::new();
            for page in 0..window.npages() {
                let frame = match window.ledger_hva(page).map(|hva| pagemap.pfn(hva)) {
                    Some(Ok(pfn)) => Some(pfn),
                    None | Some(Err(FrameError::NotPresent { .. })) => None,
                    Some(Err(error)) => return Err(error),
                };
                frames.push(frame);
            }
            windows.push(frames);
        }
        Ok(Self {
            frames: Arc::new(Frames::new(windows)),
            moves,
        })
    }
}

/// Pages moved by migration and pages put together to larger ones, of all processes.
fn moves() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    let count = |name: &str| {
        text.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(' ')?
                .parse::<u64>()
                .ok()
        })
    };
    // A kernel without huge pages puts none together.
    let collapsed = count("thp_collapse_alloc").unwrap_or(0);
    count("pgmigrate_success")?.checked_add(collapsed)
}
