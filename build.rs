//! How the program is linked.

fn main() {
    // Where it lies is fixed when it is linked: some thirty thousand addresses in it would
    // else be made good at each start, in pages that each process then has to itself.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
