//! Early user space for a kernel that has not everything built in which it needs to
//! reach its root file system: a statically linked shell that loads the modules and
//! makes room for the real init.

use std::path::{Path, PathBuf};

use guest_images::initramfs::{self, Entry};

use super::Error;

/// The shell's package, in every suite of every kernel that needs one.
pub const SHELL_PACKAGE: &str = "busybox-static";
/// Where that has it.
pub const SHELL: [&str; 2] = ["bin/busybox", "usr/bin/busybox"];
/// Variables by which it learns the tag of the root file system and the path of the
/// real init: the kernel hands parameters that it does not know to its first process.
pub const ROOT_VARIABLE: &str = "mapwitness_root";
/// See [`ROOT_VARIABLE`].
pub const INIT_VARIABLE: &str = "mapwitness_init";

const SCRIPT: &str = r#"#!/bin/busybox sh
for module in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod "/modules/$module"
done
/bin/busybox mount -t virtiofs "$mapwitness_root" /root &&
    exec /bin/busybox switch_root /root "$mapwitness_init" "$@"
echo "mapwitness: early user space cannot reach $mapwitness_init on $mapwitness_root"
"#;

/// Packs the shell and the modules, which are loaded in the order given.
pub fn pack(shell: &Path, modules: &[PathBuf], out: &Path) -> Result<(), Error> {
    let name = |module: &Path| {
        let name = module.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let order: Vec<String> = modules.iter().map(|module| name(module)).collect();
    let mut entries = vec![
        Entry::bytes("/init", 0o755, SCRIPT),
        Entry::file("/bin/busybox", 0o755, shell),
        Entry::bytes("/modules/order", 0o644, order.join("\n")),
        Entry::directory("/root"),
        Entry::directory("/dev"),
        Entry::char_device("/dev/console", 0o600, 5, 1),
    ];
    for module in modules {
        entries.push(Entry::file(
            format!("/modules/{}", name(module)),
            0o644,
            module,
        ));
    }
    initramfs::write(&entries, out).map_err(Error::Early)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_reads_what_the_kernel_is_told() {
        for variable in [ROOT_VARIABLE, INIT_VARIABLE] {
            assert!(SCRIPT.contains(&format!("${variable}")), "{variable}");
        }
    }
}
