//! What a case leaves behind once everything is closed.

use addr::{Gfn, Gpa, PAGE_SIZE};
use guest_kernel::KernelFacts;
use harness::model::{Call, Handle, Model, Operation, Process, Wrong};
use harness::{Guest, HarnessError, Refusal};
use wire::{Reply, Request, Value};

use crate::areas::Inside;
use crate::case::Case;
use crate::counts;
use crate::verdict::Verdict;
use crate::world::World;

/// Flags by which areas of drivers, and few of the kernel's own, are told from others.
const SPECIAL: [&str; 3] = ["IO", "PFNMAP", "MIXEDMAP"];

/// What must be as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leavings {
    /// Areas of the first process that are not of ordinary memory.
    areas: usize,
    /// Each module, with the number of those who use it.
    modules: Vec<(String, i64)>,
    /// Each page of RAM that the device was told of, with the number of those who hold it.
    pages: Vec<(Gpa, i32)>,
}

impl Leavings {
    /// What there is now.
    pub(crate) fn of(guest: &Guest, facts: &KernelFacts) -> Result<Self, HarnessError> {
        let view = guest.kernel(facts)?;
        let vmas = view.vmas(&view.current()?)?;
        let is_special =
            |vma: &&guest_kernel::VmaView| SPECIAL.iter().any(|flag| vma.flags.has(flag));
        let told = guest.plan().buffer_pages();
        let mut pages = Vec::new();
        for (_, gpa) in told {
            if let Some(page) = view.page_of(Gfn::containing(gpa))? {
                pages.push((gpa, page.refcount));
            }
        }
        Ok(Self {
            areas: vmas.iter().filter(is_special).count(),
            modules: view.module_users()?,
            pages,
        })
    }

    fn verdict(&self, now: &Self) -> Option<Verdict> {
        let rule = |by, expected, found| Some(Verdict::rule(by, expected, found));
        if self.areas != now.areas {
            let areas = |number| format!("{number} areas of drivers and the kernel");
            return rule("areas left", areas(self.areas), areas(now.areas));
        }
        let users = |modules: &[(String, i64)]| {
            let each = modules
                .iter()
                .map(|(name, users)| format!("{name} {users}"));
            each.collect::<Vec<_>>().join(", ")
        };
        if self.modules != now.modules {
            let (before, now) = (users(&self.modules), users(&now.modules));
            return rule("module users left", before, now);
        }
        // A driver may tell the device of other pages meanwhile: of those nothing is known.
        let are_told = self.pages.iter().map(|(gpa, _)| gpa);
        if are_told.eq(now.pages.iter().map(|(gpa, _)| gpa)) {
            let held = self.pages.iter().zip(&now.pages);
            let mut differing = held.filter(|((_, before), (_, now))| before != now);
            if let Some(((gpa, before), (_, now))) = differing.next() {
                let holders = |count| format!("{count} references to the page at {gpa}");
                return rule("page references left", holders(before), holders(now));
            }
        }
        None
    }
}

/// Ends all forked processes, unmaps and closes everything, and looks at what is left.
pub(crate) fn look(
    guest: &mut Guest,
    (facts, world): (&KernelFacts, &World),
    (case, model): (&Case, &mut Model),
    (before, inside): (&Leavings, &Inside),
) -> Result<Option<Verdict>, HarnessError> {
    if let Some(verdict) = end_children(guest, model)? {
        return Ok(Some(verdict));
    }
    if let Some(verdict) = undo(guest, case, model)? {
        return Ok(Some(verdict));
    }
    // Nothing of any driver may be mapped.
    let nothing = world.model(guest.current_pid());
    if let Some(mismatch) = guest.witness_all(&nothing)?.mismatch {
        return Ok(Some(Verdict::of(Wrong::Page(Box::new(mismatch)))));
    }
    if let Some(verdict) = before.verdict(&Leavings::of(guest, facts)?) {
        return Ok(Some(verdict));
    }
    let opened = |number: usize| {
        let opens = |operation: &Operation| matches!(operation.call, Call::Open { file, .. } if file == number);
        case.operations.iter().any(opens)
    };
    let counted = inside.counts.iter().filter(|(file, _)| opened(**file));
    let counted: Vec<_> = counted.map(|(_, count)| *count).collect();
    counts::again(guest, facts, &counted)
}

fn end_children(guest: &mut Guest, model: &mut Model) -> Result<Option<Verdict>, HarnessError> {
    let children: Vec<Process> = model
        .processes()
        .filter(|process| *process != Process::FIRST)
        .collect();
    // The last of them was looked at last, and holds the doorbell.
    for child in children.into_iter().rev() {
        let exit = child.does(Call::Exit);
        let came = guest.perform(model, &exit)?;
        if let Err(surprise) = model.apply(&exit, &came)? {
            return Ok(Some(Verdict::of(Wrong::Outcome(surprise))));
        }
    }
    Ok(None)
}

/// Unmaps and closes what the first process has, all at once. Gives what is wrong.
fn undo(guest: &mut Guest, case: &Case, model: &Model) -> Result<Option<Verdict>, HarnessError> {
    let mut requests = Vec::new();
    let areas = model.space(Process::FIRST).into_iter();
    for (gva, area) in areas.flat_map(harness::model::Space::areas) {
        requests.push(Request::Unmap {
            address: gva.raw(),
            len_bytes: area.npages.saturating_mul(PAGE_SIZE),
        });
    }
    let mut handles: Vec<Handle> = Vec::new();
    for operation in &case.operations {
        if let Call::Open { handle, .. } = operation.call
            && !handles.contains(&handle)
        {
            handles.push(handle);
        }
    }
    let open = handles.into_iter();
    let open = open.filter_map(|it| model.fd(Process::FIRST, it));
    requests.extend(open.map(|fd| Request::Close { fd }));
    let replies = guest.several(&requests)?;
    for (request, reply) in requests.iter().zip(replies) {
        match (request, reply) {
            (_, Reply::Done(Value::Unit)) => {}
            (request, Reply::Errno(errno)) => {
                let refusal = Refusal::Errno(errno).to_string();
                let expected = format!("{} succeeds", what(request));
                return Ok(Some(Verdict::rule("answer", expected, refusal)));
            }
            (request, reply) => {
                return Err(HarnessError::Mismatched {
                    request: what(request).into(),
                    reply: Box::new(reply),
                });
            }
        }
    }
    Ok(None)
}

const fn what(request: &Request) -> &'static str {
    match request {
        Request::Unmap { .. } => "munmap of an area",
        _ => "close",
    }
}
