//! The whole check of a mapping: stores, loads and all six links.

use crate::Field;
use crate::error::BenchError;
use crate::figure::Figure;
use crate::fit::Growth;
use crate::goals::{CHECK_LARGE_VS_ONE, GROWTH_CHECK};
use crate::mapped::Device;
use crate::report::{Curve, Report};
use crate::samples::{alternate, timed};
use crate::walk::{QUICK_NPAGES, SIZES, point};

/// Pages of the large mapping.
const NPAGES: u64 = 16384;
const TURNS: usize = 3;

pub(crate) fn measure(field: &Field<'_>, report: &mut Report) -> Result<(), BenchError> {
    let most = if field.plan.quick {
        QUICK_NPAGES
    } else {
        u64::MAX
    };
    let sizes: Vec<u64> = SIZES.into_iter().filter(|size| *size <= most).collect();
    let largest = sizes.last().copied().unwrap_or(1);
    let mut device = Device::with(field, largest)?;
    let measured = against_one(field, &mut device, NPAGES.min(largest));
    match measured {
        Ok(figure) => report.add(figure),
        Err(BenchError::Unwitnessed(why)) => {
            // Fewer than six links are another check.
            report.add(Figure::unmeasured(&CHECK_LARGE_VS_ONE, why.as_str()));
            report.add(Figure::unmeasured(&GROWTH_CHECK, why));
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let mut points = Vec::new();
    for npages in sizes {
        let mapping = device.map(npages)?;
        let mut check = |device: &mut Device| {
            let (seconds, checked) = timed(|| device.check(&mapping));
            checked.map(|()| seconds * 1e6)
        };
        let takes = [&mut check as _];
        let [samples] = alternate(&mut device, field.plan.turns(TURNS), takes)?;
        point(&mut points, npages, &samples);
        device.unmap(&mapping)?;
    }
    report.add(Growth::of(&points).figure(&GROWTH_CHECK));
    report.curves.push(Curve {
        name: "six-link check",
        size: "pages",
        unit: "us",
        points,
    });
    Ok(())
}

/// A page of many against a page alone.
fn against_one(field: &Field<'_>, device: &mut Device, npages: u64) -> Result<Figure, BenchError> {
    let (large, one) = (device.map(npages)?, device.map(1)?);
    let mut many = |device: &mut Device| {
        let (seconds, checked) = timed(|| device.check(&large));
        checked.map(|()| seconds * 1e6 / npages as f64)
    };
    let mut alone = |device: &mut Device| {
        let (seconds, checked) = timed(|| device.check(&one));
        checked.map(|()| seconds * 1e6)
    };
    let takes = [&mut many as _, &mut alone as _];
    let [ours, rival] = alternate(device, field.plan.turns(TURNS), takes)?;
    device.unmap(&large)?;
    device.unmap(&one)?;
    Ok(Figure::against(&CHECK_LARGE_VS_ONE, &ours, &rival))
}
