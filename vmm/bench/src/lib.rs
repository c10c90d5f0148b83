//! What mapwitness costs in time and memory, each figure beside a rival that is measured
//! in turn with it, on the same host and in the same run.
//!
//! A figure by itself means little on a machine that is busy or emulated; a ratio of two
//! that took turns means the same anywhere. Medians are given, with their spread.

mod boot;
mod check;
pub mod error;
mod figure;
mod fit;
mod goals;
mod guests;
mod mapped;
mod memory;
mod near;
mod plot;
mod processes;
mod qemu;
mod report;
mod reset;
mod samples;
mod walk;

use std::path::PathBuf;

pub use error::BenchError;
pub use figure::Figure;
pub use goals::{GOALS, Goal, Part};
pub use guests::hidden_command;
pub use plot::draw;
pub use report::Report;

use near::{Copy, Program};
use qemu::Qemu;

/// What to measure, and with what. The running program answers to [`hidden_command`].
pub struct Plan {
    /// The parts, in the order of [`Part::ALL`] whatever their order here.
    pub parts: Vec<Part>,
    /// Fewer turns and smaller sizes, to see that all works.
    pub quick: bool,
    /// Uncompressed ELF kernel (vmlinux).
    pub kernel: PathBuf,
    /// Uncompressed initramfs.
    pub initramfs: PathBuf,
    /// QEMU, where there is one.
    pub qemu: Option<PathBuf>,
    /// The host, in words.
    pub host: String,
}

impl Plan {
    /// How many turns follow the first.
    fn turns(&self, usual: usize) -> usize {
        if self.quick { 0 } else { usual }
    }
}

/// Measures, and tells `say` what is being measured.
///
/// What fails, and a rival that cannot be had, leaves its figures unmeasured, with the reason.
///
/// # Errors
/// [`BenchError`] when nothing can be measured.
pub fn run(plan: &Plan, say: &dyn Fn(&str)) -> Result<Report, BenchError> {
    let mut report = Report::new(plan);
    let field = Field::of(plan)?;
    for part in Part::ALL.into_iter().filter(|it| plan.parts.contains(it)) {
        say(part.name());
        let measured = match part {
            Part::Boot => boot::measure(&field, &mut report),
            Part::Memory => memory::measure(&field, &mut report),
            Part::Reset => reset::measure(&field, &mut report),
            Part::Walk => walk::measure(&field, &mut report),
            Part::Check => check::measure(&field, &mut report),
        };
        if let Err(error) = measured {
            report.give_up(part, &error::chain(&error));
        }
    }
    Ok(report)
}

/// What the parts work with.
struct Field<'p> {
    plan: &'p Plan,
    /// This program.
    program: Program,
    /// For those who boot. Whoever is taken up from a snapshot knows it by the files of
    /// the plan, and reads neither.
    kernel: Copy,
    initramfs: Copy,
    /// The rival, or why there is none.
    qemu: Result<Program, String>,
}

impl<'p> Field<'p> {
    fn of(plan: &'p Plan) -> Result<Self, BenchError> {
        let near = || BenchError::io("copy what is measured into memory");
        let mut field = Self {
            plan,
            program: Program::of_process(std::process::id()).map_err(near())?,
            kernel: Copy::of(&plan.kernel).map_err(near())?,
            initramfs: Copy::of(&plan.initramfs).map_err(near())?,
            qemu: Err("there is no QEMU on this host".to_owned()),
        };
        if let Some(program) = &plan.qemu {
            field.qemu = Ok(Program::at(program));
            // One that cannot run here is no rival, and that is said.
            field.qemu = Qemu::start(&field, boot::RAM_LEN_BYTES)
                .and_then(|qemu| qemu.program().map_err(near()))
                .map_err(|error| error::chain(&error));
        }
        Ok(field)
    }
}
