//! The private apt's configuration and sources.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::Error;
use super::sources::{self, Mirror};
use crate::command;

/// Where Debian keeps the keys of its archives.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// A sources.list to try, and the mirrors it names.
pub(super) struct SourceList {
    pub(super) text: String,
    pub(super) mirrors: String,
}

/// The lists to try for these suites, in order.
pub(super) fn source_lists(suites: &[&str]) -> Result<Vec<SourceList>, Error> {
    let plain = sources::mirrors(false);
    let security = sources::mirrors(true);
    for suite in suites {
        let mirrors = if sources::is_security(suite) {
            &security
        } else {
            &plain
        };
        if mirrors.is_empty() {
            let suite = (*suite).to_owned();
            return Err(Error::NoMirror { suite });
        }
    }
    let ring = KEYRINGS
        .map(Path::new)
        .into_iter()
        .find(|ring| ring.exists());
    Ok(compose(suites, &plain, &security, ring))
}

/// One list per plain mirror; first with the keyrings of the machine's
/// configuration, then with Debian's whole one, as the former may cover only
/// the machine's own release.
fn compose(
    suites: &[&str],
    plain: &[Mirror],
    security: &[Mirror],
    ring: Option<&Path>,
) -> Vec<SourceList> {
    let mut lists: Vec<SourceList> = Vec::new();
    let several = plain.len().max(security.len());
    for attempt in 0..several * 2 {
        let mut text = String::new();
        let mut mirrors = Vec::new();
        for suite in suites {
            let from = if sources::is_security(suite) {
                security
            } else {
                plain
            };
            let Some(mirror) = from.get((attempt / 2).min(from.len().saturating_sub(1))) else {
                continue;
            };
            let own = mirror.signed_by.as_deref().filter(|_| attempt % 2 == 0);
            let signed_by = own.or(ring).map_or_else(String::new, |ring| {
                format!("[signed-by={}] ", ring.display())
            });
            // Writing to a String does not fail.
            let _ = writeln!(text, "deb {signed_by}{} {suite} main", mirror.uri);
            if !mirrors.contains(&mirror.uri) {
                mirrors.push(mirror.uri.clone());
            }
        }
        if lists.iter().all(|list| list.text != text) {
            let mirrors = mirrors.join(" and ");
            lists.push(SourceList { text, mirrors });
        }
    }
    lists
}

/// The system's apt configuration.
pub(super) fn dump_config() -> String {
    command::output_of(Command::new("apt-config").arg("dump")).unwrap_or_default()
}

/// The private apt's configuration: its own folders, and from the system's what
/// says how to reach the network. Hooks and preferences stay behind.
pub(super) fn config_text(dir: &Path, system: &str) -> String {
    let other = [
        "IndexTargets",
        "Allow",
        "Languages",
        "Changelogs",
        "CompressionTypes",
    ];
    let mut text = String::new();
    for line in system.lines() {
        let Some(setting) = line.strip_prefix("Acquire::") else {
            continue;
        };
        if !other.iter().any(|name| setting.starts_with(name)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    let dir = dir.display();
    // The cache folder belongs to this user: apt's own user could not read it.
    let _ = write!(
        text,
        "Dir::Etc::main \"/dev/null\";\n\
         Dir::Etc::parts \"/dev/null\";\n\
         Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::State \"{dir}\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         Dir::State::status \"/dev/null\";\n\
         Dir::Cache \"{dir}\";\n\
         Dir::Cache::archives \"{dir}/archives\";\n\
         Acquire::Languages \"none\";\n\
         APT::Sandbox::User \"\";\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(uri: &str, signed_by: Option<&str>) -> Mirror {
        Mirror {
            uri: uri.to_owned(),
            signed_by: signed_by.map(Into::into),
        }
    }

    #[test]
    fn each_mirror_is_tried_with_its_own_keys_and_then_with_all_of_debians() {
        let plain = [
            mirror("http://one.example", Some("/etc/one.gpg")),
            mirror("http://two.example", None),
        ];
        let security = [mirror("http://sec.example", None)];
        let suites = ["trixie-backports", "trixie-security"];
        let ring = Some(Path::new("/all.gpg"));
        let lists = compose(&suites, &plain, &security, ring);
        let texts: Vec<&str> = lists.iter().map(|list| list.text.as_str()).collect();
        let sec = "deb [signed-by=/all.gpg] http://sec.example trixie-security main\n";
        let backports = "trixie-backports main";
        assert_eq!(
            texts,
            [
                format!("deb [signed-by=/etc/one.gpg] http://one.example {backports}\n{sec}"),
                format!("deb [signed-by=/all.gpg] http://one.example {backports}\n{sec}"),
                format!("deb [signed-by=/all.gpg] http://two.example {backports}\n{sec}"),
            ]
        );
        assert_eq!(
            lists[0].mirrors,
            "http://one.example and http://sec.example"
        );
    }

    #[test]
    fn proxies_come_along_and_hooks_do_not() {
        let system = "\
APT::Update::Post-Invoke:: \"rm -f /var/cache/apt/*.bin\";
Acquire::http::Proxy \"http://proxy.example:3128\";
Acquire::AllowInsecureRepositories \"1\";
Dir::State \"var/lib/apt\";
";
        let text = config_text(Path::new("/cache/apt/x"), system);
        assert!(text.starts_with("Acquire::http::Proxy \"http://proxy.example:3128\";\nDir::Etc"));
        assert!(!text.contains("Invoke") && !text.contains("Insecure"));
        assert!(text.contains("Dir::State \"/cache/apt/x\";"));
        assert!(!text.contains("var/lib"), "{text}");
    }
}
