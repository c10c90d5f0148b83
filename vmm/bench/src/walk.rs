//! Walks of a large mapping, against KVM's own translation of each page and against just
//! reading the tables.

use std::collections::BTreeSet;
use std::hint::black_box;

use addr::{Gpa, PAGE_SIZE};
use harness::Mapping;
use witness::guest_walk::FrozenTables;
use witness::second_level::LiveTables;

use crate::Field;
use crate::error::{BenchError, chain};
use crate::figure::Figure;
use crate::fit::Growth;
use crate::goals::{GROWTH_WALK, SECOND_VS_GUEST, WALK_VS_TABLES, WALK_VS_TRANSLATE};
use crate::mapped::Device;
use crate::report::{Curve, Report};
use crate::samples::{Samples, alternate, timed};

/// Pages of the mapping that is walked: 64 MiB.
const NPAGES: u64 = 16384;
const TURNS: usize = 7;
/// Pages of the mappings that show how the walk grows.
pub(crate) const SIZES: [u64; 9] = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536];
/// The most in a hurry.
pub(crate) const QUICK_NPAGES: u64 = 1024;
const ENTRIES: usize = 512;

pub(crate) fn measure(field: &Field<'_>, report: &mut Report) -> Result<(), BenchError> {
    let most = if field.plan.quick {
        QUICK_NPAGES
    } else {
        u64::MAX
    };
    let sizes: Vec<u64> = SIZES.into_iter().filter(|size| *size <= most).collect();
    let largest = sizes.last().copied().unwrap_or(1);
    let mut device = Device::with(field, largest)?;
    let mapping = device.map(NPAGES.min(largest))?;
    // Brings all pages into the second level, and sees that both walks are right.
    let below = device.check(&mapping);
    rivals(field, &mut device, &mapping, report)?;
    report.add(match &below {
        Ok(()) => second_level(field, &mut device, &mapping)?,
        Err(why) => Figure::unmeasured(&SECOND_VS_GUEST, chain(why)),
    });
    device.unmap(&mapping)?;
    growth(field, &mut device, &sizes, below.is_ok(), report)
}

fn rivals(
    field: &Field<'_>,
    device: &mut Device,
    mapping: &Mapping,
    report: &mut Report,
) -> Result<(), BenchError> {
    let npages = mapping.spec.npages;
    let tables = leaf_tables(device, mapping)?;
    let mut walk = |device: &mut Device| Ok(rate(npages, walk(device, mapping)?));
    let mut translate = |device: &mut Device| Ok(rate(npages, translate(device, mapping)?));
    let mut read = |device: &mut Device| Ok(rate(npages, read(device, &tables)?));
    let takes = [&mut walk as _, &mut translate as _, &mut read as _];
    let [ours, translated, tables] = alternate(device, field.plan.turns(TURNS), takes)?;
    report.add(Figure::against(&WALK_VS_TRANSLATE, &ours, &translated));
    report.add(Figure::against(&WALK_VS_TABLES, &ours, &tables));
    Ok(())
}

fn second_level(
    field: &Field<'_>,
    device: &mut Device,
    mapping: &Mapping,
) -> Result<Figure, BenchError> {
    let npages = mapping.spec.npages;
    let mut below = |device: &mut Device| Ok(rate(npages, walk_below(device, npages)?));
    let mut above = |device: &mut Device| Ok(rate(npages, walk(device, mapping)?));
    let takes = [&mut below as _, &mut above as _];
    let [below, above] = alternate(device, field.plan.turns(TURNS), takes)?;
    Ok(Figure::against(&SECOND_VS_GUEST, &below, &above))
}

fn growth(
    field: &Field<'_>,
    device: &mut Device,
    sizes: &[u64],
    with_below: bool,
    report: &mut Report,
) -> Result<(), BenchError> {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for npages in sizes {
        let mapping = device.map(*npages)?;
        let mut walk = |device: &mut Device| Ok(walk(device, &mapping)? * 1e6);
        let takes = [&mut walk as _];
        let [samples] = alternate(device, field.plan.turns(TURNS), takes)?;
        point(&mut above, *npages, &samples);
        if with_below {
            device.check(&mapping)?;
            let mut walk = |device: &mut Device| Ok(walk_below(device, *npages)? * 1e6);
            let takes = [&mut walk as _];
            let [samples] = alternate(device, field.plan.turns(TURNS), takes)?;
            point(&mut below, *npages, &samples);
        }
        device.unmap(&mapping)?;
    }
    report.add(Growth::of(&above).figure(&GROWTH_WALK));
    for (name, points) in [("guest walk", above), ("second-level walk", below)] {
        report.curves.push(Curve {
            name,
            size: "pages",
            unit: "us",
            points,
        });
    }
    Ok(())
}

/// Adds what a size costs.
pub(crate) fn point(points: &mut Vec<(f64, f64)>, npages: u64, samples: &Samples) {
    points.extend(samples.median().map(|cost| (npages as f64, cost)));
}

fn rate(npages: u64, seconds: f64) -> f64 {
    npages as f64 / seconds
}

/// Complains about a walk that did not find all pages.
fn all(found: u64, wanted: u64) -> Result<(), BenchError> {
    if found == wanted {
        return Ok(());
    }
    let what = format!("{found} of {wanted} pages were found");
    Err(BenchError::Unwitnessed(what))
}

/// Seconds of a walk of the guest's tables, from the registers to the last frame.
fn walk(device: &Device, mapping: &Mapping) -> Result<f64, BenchError> {
    let npages = mapping.spec.npages;
    let (seconds, found) = timed(|| {
        let tables = FrozenTables::of(device.guest.vm())?;
        let mut walk = tables.range(mapping.gva, mapping.spec.len_bytes());
        let mut found = 0;
        while let Some(run) = walk.next_run() {
            for frame in run.frames() {
                black_box(frame);
                found += 1;
            }
        }
        Ok::<u64, BenchError>(found)
    });
    all(found?, npages)?;
    Ok(seconds)
}

/// The same of the second level, from the search for its root on.
fn walk_below(device: &Device, npages: u64) -> Result<f64, BenchError> {
    let vm = device.guest.vm();
    let base = vm.windows().first().map_or(Gpa::new(0), |it| it.base());
    let (seconds, found) = timed(|| {
        let tables = LiveTables::of(vm).map_err(|error| chain(&error))?;
        let mut found = 0;
        tables.runs(base, npages * PAGE_SIZE, |run| {
            for frame in run.frames() {
                black_box(frame);
                found += 1;
            }
            true
        });
        Ok(found)
    });
    all(found.map_err(BenchError::Unwitnessed)?, npages)?;
    Ok(seconds)
}

/// Seconds of one `KVM_TRANSLATE` for each page.
fn translate(device: &Device, mapping: &Mapping) -> Result<f64, BenchError> {
    let vm = device.guest.vm();
    let (seconds, found) = timed(|| {
        let mut found = 0;
        for page in 0..mapping.spec.npages {
            let Some(gva) = mapping.page_gva(page) else {
                break;
            };
            found += u64::from(black_box(vm.kvm_translate(gva)?).is_some());
        }
        Ok::<u64, BenchError>(found)
    });
    all(found?, mapping.spec.npages)?;
    Ok(seconds)
}

/// Seconds of reading tables and doing nothing with them.
fn read(device: &Device, tables: &BTreeSet<Gpa>) -> Result<f64, BenchError> {
    let vm = device.guest.vm();
    let (seconds, read) = timed(|| {
        let mut entries = [0; ENTRIES];
        for table in tables {
            vm.read_words(*table, &mut entries)?;
            black_box(&entries);
        }
        Ok::<(), BenchError>(())
    });
    read.map(|()| seconds)
}

/// The tables whose entries map the pages.
fn leaf_tables(device: &Device, mapping: &Mapping) -> Result<BTreeSet<Gpa>, BenchError> {
    let tables = FrozenTables::of(device.guest.vm())?;
    let pages = (0..mapping.spec.npages).filter_map(|page| mapping.page_gva(page));
    let found = pages.filter_map(|gva| Some(tables.walk(gva).ok()?.steps.last()?.table));
    Ok(found.collect())
}
