//! What mmap(2) answers, and what the mapping may become.

use contract::{Answer, FileContract, Request};
use wire::{OpenMode, Prot, Sharing};

use super::space::Errno;

/// Who refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The kernel, before it changes anything.
    ByKernel(Errno),
    /// The driver, after the kernel has removed what stood in the way.
    ByDriver(Errno),
    /// It cannot be told.
    Perhaps(&'static str),
}

/// What the mapping can be raised to later, or who refuses it. What the file shows may be
/// `gone`, which the driver says by this errno.
pub(super) fn answer(
    file: &FileContract,
    request: &Request,
    gone: Option<Errno>,
) -> Result<Prot, Refused> {
    match request.answer_of_kernel() {
        Some(Answer::Refused(errno)) => return Err(Refused::ByKernel(errno.raw())),
        Some(Answer::Undetermined(why)) => return Err(Refused::Perhaps(why)),
        Some(Answer::Maps) | None => {}
    }
    if let Some(errno) = gone {
        return Err(Refused::ByDriver(errno));
    }
    match file.predict(request) {
        Answer::Refused(errno) => Err(Refused::ByDriver(errno.raw())),
        Answer::Undetermined(why) => Err(Refused::Perhaps(why)),
        Answer::Maps => Ok(most(file, request)),
    }
}

/// `VM_MAYWRITE` and `VM_MAYEXEC` as the contract has them; a file that is open for
/// reading alone lets no shared mapping write (`do_mmap` of mm/mmap.c).
fn most(file: &FileContract, request: &Request) -> Prot {
    let every = |has: fn(contract::Access) -> bool| {
        (0..request.npages()).all(|page| {
            let shown = file.shown(request.first_page(), page);
            shown.is_some_and(|shown| has(shown.range.access))
        })
    };
    let is_writable = match request.sharing {
        Sharing::Shared => every(|access| access.write) && request.open == OpenMode::ReadWrite,
        Sharing::Private => file.copy_on_write,
    };
    Prot {
        read: true,
        write: is_writable,
        exec: every(|access| access.exec),
    }
}
