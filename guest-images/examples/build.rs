//! Builds a guest image and says where it is:
//! `cargo run -p guest-images --example build -- [VARIANT] [KERNEL_TREE]`

use guest_images::{Request, ensure};
use provision::{Consent, Progress};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut request = Request::default();
    if let Some(variant) = arguments.next() {
        request.driver_variant = variant;
    }
    request.kernel_src = arguments.next().map(Into::into);
    let image = ensure(&request, Consent::Ask, &Progress::stderr())?;
    println!("{image:#?}");
    Ok(())
}
