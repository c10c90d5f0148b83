//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use ::bench::Part;
use clap::{Parser, Subcommand};
use guest_images::Flavour;
use harness::Start;
use hosts::Wish;
use witness::Link;

/// Proves, from below the kernel, that a Linux driver's mmap maps exactly what it
/// should.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Exit status: 0 everything is as it must be; 1 something is not; 2 it could not be checked.

Environment:
  MAPWITNESS_HOST    host to run on: kvm, soft-npt, soft-ept or auto (the default)
  MAPWITNESS_HOST_KERNEL
                     kernel of soft-npt: 6.12 (the default), 6.1 or 7.3
  MAPWITNESS_HOST_LEVELS
                     levels of soft-npt's tables: 5 (the default) or 4
  MAPWITNESS_EPT_CPU CPU of soft-ept: haswell (the default) or sandy-bridge, whose EPT has no
                     accessed and dirty bits
  MAPWITNESS_BOCHS_SRC  source archive of Bochs, to build soft-ept's without a network
  MAPWITNESS_SNAPSHOTS
                     off: boot guests, as --no-snapshot does everywhere
  MAPWITNESS_CACHE   cache folder instead of mapwitness in the user's cache folder
  MAPWITNESS_SOURCE  source tree of mapwitness, when it has moved since the build"
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest, load the driver and check what its mappings become
    Check(CheckArgs),
    /// Draw one frame under every address that a kernel has for it, each followed
    /// through the page tables
    Atlas(AtlasArgs),
    /// Check every driver with a planted fault, and show what catches it
    Mutants(MutantsArgs),
    /// Do to a driver's mappings whatever processes can, over and over, and look for what
    /// is wrong
    Fuzz(FuzzArgs),
    /// Do what a finding of `fuzz` says, step by step; status 1 when it is still wrong
    Replay(ReplayArgs),
    /// Leave out of a finding of `fuzz` what it does not need, and write it anew
    Minimize(ReplayArgs),
    /// Measure what it all costs, each figure beside a rival on the same host
    Bench(BenchArgs),
    /// Tell what this machine can do, and what would make it do more
    Doctor(DoctorArgs),
    /// Show, build or remove guest images
    #[command(subcommand)]
    Images(ImagesCommand),
}

/// Options of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Host to run on: kvm, soft-npt, soft-ept or auto
    #[arg(long, value_name = "HOST")]
    pub host: Option<Wish>,
    /// End with status 2 unless this link was witnessed for every page: contract,
    /// guest-walk, memslot, host-frame, second-level or stamp
    #[arg(long, value_name = "LINK", value_delimiter = ',')]
    pub require: Vec<Link>,
    /// Show when each second-level entry came and went, by KVM's own records, and end
    /// with status 2 where that could not be told
    #[arg(long)]
    pub timeline: bool,
    /// Check only files whose name begins so, such as eager/odd or persona; may be given
    /// several times
    #[arg(long = "file", value_name = "NAME", value_delimiter = ',')]
    pub files: Vec<String>,
    /// Variant of the driver, as listed in guest-module/variants.txt
    #[arg(long, value_name = "NAME", default_value = "good")]
    pub driver_variant: String,
    /// Check this module instead of the project's own driver; with several, all are
    /// loaded in this order and the last one is the driver
    #[arg(
        long,
        value_name = "FILE",
        requires = "contract",
        conflicts_with = "driver_variant"
    )]
    pub module: Vec<PathBuf>,
    /// What the driver's files promise, and the device that it is for: see
    /// tests/examples/README.md
    #[arg(long, value_name = "FILE", requires = "module")]
    pub contract: Option<PathBuf>,
    /// Number of vCPUs, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=8))]
    pub vcpus: u8,
    /// Boot the guest even if there is a snapshot of it, and leave none
    #[arg(long)]
    pub no_snapshot: bool,
    /// Show the guest's console on standard error
    #[arg(short, long)]
    pub verbose: bool,
    /// What the image is built from
    #[command(flatten)]
    pub image: ImageArgs,
}

/// Options of `atlas`.
#[derive(Clone, Debug, clap::Args)]
pub struct AtlasArgs {
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Host to run on: kvm, soft-npt, soft-ept or auto
    #[arg(long, value_name = "HOST")]
    pub host: Option<Wish>,
    /// Boot the guest even if there is a snapshot of it, and leave none
    #[arg(long)]
    pub no_snapshot: bool,
    /// Show the guest's console on standard error
    #[arg(short, long)]
    pub verbose: bool,
    /// What the image is built from
    #[command(flatten)]
    pub image: ImageArgs,
}

/// Options of `mutants`.
#[derive(Clone, Debug, clap::Args)]
pub struct MutantsArgs {
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Host to run on: kvm, soft-npt, soft-ept or auto
    #[arg(long, value_name = "HOST")]
    pub host: Option<Wish>,
    /// Only this mutant of guest-module/variants.txt; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Boot each guest even if there is a snapshot of it, and leave none
    #[arg(long)]
    pub no_snapshot: bool,
    /// Show the guests' consoles on standard error
    #[arg(short, long)]
    pub verbose: bool,
    /// What the image is built from
    #[command(flatten)]
    pub image: ImageArgs,
}

/// The driver that is fuzzed.
#[derive(Clone, Debug, clap::Args)]
pub struct FuzzedArgs {
    /// Host to run on: kvm, soft-npt or auto
    #[arg(long, value_name = "HOST")]
    pub host: Option<Wish>,
    /// A module instead of the project's own driver; with several, all are loaded in this
    /// order and the last one is the driver
    #[arg(
        long,
        value_name = "FILE",
        requires = "contract",
        conflicts_with = "driver_variant"
    )]
    pub module: Vec<PathBuf>,
    /// What the driver's files promise, and the device that it is for: see
    /// tests/examples/README.md
    #[arg(long, value_name = "FILE", requires = "module")]
    pub contract: Option<PathBuf>,
    /// Boot the guest even if there is a snapshot of it, and leave none
    #[arg(long)]
    pub no_snapshot: bool,
    /// Show the guest's console on standard error
    #[arg(short, long)]
    pub verbose: bool,
    /// What the image is built from
    #[command(flatten)]
    pub image: ImageArgs,
}

/// By what it is told that a case brings something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GuidanceArg {
    /// Nothing: only the cases to begin with are changed
    Off,
    /// Pairs of operations one after the other, with what they came to
    Outcomes,
    /// The same, and edges of code
    Edges,
}

/// Options of `fuzz`.
#[derive(Clone, Debug, clap::Args)]
pub struct FuzzArgs {
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// End after so many seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub seconds: u64,
    /// End after so many cases, whatever the time
    #[arg(long, value_name = "N")]
    pub cases: Option<u64>,
    /// Seed of all choices: the same seed, driver and corpus go through the same cases
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Folder of cases and findings, which a later run goes on with; without it only what
    /// was found is told
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,
    /// End at the first finding
    #[arg(long)]
    pub until_found: bool,
    /// What makes a case worth being kept and changed: nothing, pairs of operations with
    /// their outcomes, or these and edges of the driver's code and of mm/, which only a kernel
    /// of flavour kcov tells; the most that the flavour gives unless it is said
    #[arg(long, value_name = "WHAT")]
    pub guidance: Option<GuidanceArg>,
    /// Look at every page after each operation, and not only at a case's end
    #[arg(long)]
    pub paranoid: bool,
    /// Look at no page: only at results, errnos and signals
    #[arg(long, conflicts_with = "paranoid")]
    pub no_evidence: bool,
    /// Guests at the same time, each on a thread of its own; they share what they find
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=64))]
    pub cores: u8,
    /// Let runs on other machines join this one at this address, by TCP: one of loopback, behind a
    /// tunnel, or 0.0.0.0, where whoever reaches the port can send cases
    #[arg(long, value_name = "ADDR:PORT")]
    pub broker: Option<SocketAddr>,
    /// Join the run whose `--broker` has this address: cases that bring something new are
    /// exchanged; each keeps its own findings
    #[arg(long, value_name = "ADDR:PORT")]
    pub join: Option<SocketAddr>,
    /// Go through the cases of such a run with all evidence and without, by turns, and tell
    /// what each costs
    #[arg(long, requires = "cases", conflicts_with_all = ["paranoid", "no_evidence", "corpus"])]
    pub compare_evidence: bool,
    /// Variant of the driver, as listed in guest-module/variants.txt
    #[arg(long, value_name = "NAME", default_value = "good")]
    pub driver_variant: String,
    /// Fuzz every variant that has a fault planted, each until it is found or `--cases`
    /// are gone through; tell after how many cases it was, and how often of ten times what
    /// was found came again
    #[arg(long, requires = "cases", conflicts_with_all = ["driver_variant", "corpus", "module", "cores", "broker", "join"])]
    pub every_variant: bool,
    /// Fuzz every driver of a folder that has a Kbuild and a list of contracts, as
    /// tests/gallery, each until it is found or `--cases` are gone through; findings and a
    /// table of them go to `--corpus`
    #[arg(long, value_name = "DIR", requires_all = ["cases", "corpus"], conflicts_with_all = ["driver_variant", "every_variant", "compare_evidence", "module"])]
    pub gallery: Option<PathBuf>,
    /// Of the variants only this one; may be given several times
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        requires = "every_variant"
    )]
    pub only: Vec<String>,
    /// The driver
    #[command(flatten)]
    pub fuzzed: FuzzedArgs,
}

/// Options of `replay` and `minimize`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// The finding
    pub file: PathBuf,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Variant of the driver instead of the one that the finding names
    #[arg(long, value_name = "NAME")]
    pub driver_variant: Option<String>,
    /// The driver
    #[command(flatten)]
    pub fuzzed: FuzzedArgs,
}

/// Options of `bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// What to measure: boot, memory, reset, walk, check; all of it when nothing is named
    #[arg(value_name = "PART", value_parser = part)]
    pub parts: Vec<Part>,
    /// Print one JSON document on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Draw cost against size into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    pub plot: Option<PathBuf>,
    /// Fewer turns and smaller sizes: to see that it works, not for figures
    #[arg(long)]
    pub quick: bool,
    /// Host to run on: kvm, soft-npt, soft-ept or auto
    #[arg(long, value_name = "HOST")]
    pub host: Option<Wish>,
    /// What the image is built from
    #[command(flatten)]
    pub image: ImageArgs,
}

fn part(name: &str) -> Result<Part, String> {
    let known = Part::ALL.into_iter().find(|part| part.name() == name);
    known.ok_or_else(|| {
        let names = Part::ALL.map(Part::name).join(", ");
        format!("it is one of {names}")
    })
}

/// What a guest image is built from.
#[derive(Clone, Debug, clap::Args)]
pub struct ImageArgs {
    /// Build this kernel tree instead of the pinned source
    #[arg(long, value_name = "DIR")]
    pub kernel_src: Option<PathBuf>,
    /// Flavour of the guest's kernel: plain; kcov, which tells which of its code ran and
    /// checks itself (lockdep, KFENCE, page tables); or kasan, which checks every use of its
    /// memory besides and is compiled by clang. Either takes some minutes to build once
    #[arg(long, value_name = "NAME", default_value_t)]
    pub flavour: Flavour,
    /// Install missing packages without asking
    #[arg(short, long)]
    pub yes: bool,
}

/// Options of `doctor`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// What to do with guest images.
#[derive(Debug, Subcommand)]
pub enum ImagesCommand {
    /// List what the cache holds
    List,
    /// Build a guest image, as far as it is not there yet
    Build {
        /// Variant of the driver, as listed in guest-module/variants.txt
        #[arg(long, value_name = "NAME", default_value = "good")]
        driver_variant: String,
        /// What the image is built from
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Build a module of your own, in C or Rust, for the guest's kernel
    Module {
        /// Folder with the sources and a Kbuild
        dir: PathBuf,
        /// Where the module goes, instead of beside its sources
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// What the image is built from
        #[command(flatten)]
        image: ImageArgs,
    },
    /// Remove what the cache holds
    Clean {
        /// Keep what was used within the last DAYS days
        #[arg(long, value_name = "DAYS")]
        older_than: Option<u64>,
    },
}

/// How guests are started when `--no-snapshot` is given or not.
pub fn start(no_snapshot: bool) -> Start {
    if no_snapshot {
        Start::Boot
    } else {
        Start::from_environment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn links_are_named_as_they_are_printed() {
        let args = ["mapwitness", "check", "--require", "stamp,second-level"];
        let Command::Check(check) = Args::parse_from(args).command else {
            panic!("check was asked for");
        };
        assert_eq!(check.require, [Link::Stamp, Link::SecondLevel]);
        let unknown = ["mapwitness", "check", "--require", "luck"];
        assert!(Args::try_parse_from(unknown).is_err());
    }
}
