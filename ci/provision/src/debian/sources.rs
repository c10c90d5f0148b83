//! Which Debian mirrors this machine uses, by its own apt configuration.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;

/// Names of Debian releases that apt sources may use.
const RELEASES: [&str; 10] = [
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// One source of packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<PathBuf>,
}

/// A place to fetch a Debian archive from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    pub(super) uri: String,
    /// Keyring that the machine's configuration ties to it.
    pub(super) signed_by: Option<PathBuf>,
}

/// The machine's mirrors of Debian, or of its security archive, in the order in
/// which its configuration names them.
pub(super) fn mirrors(security: bool) -> Vec<Mirror> {
    let configured = choose(&configured(Path::new("/etc/apt")), security);
    if configured.is_empty() {
        from_index_targets(security)
    } else {
        configured
    }
}

fn configured(etc_apt: &Path) -> Vec<Source> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(listing) = fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut found: Vec<_> = listing.filter_map(|e| Some(e.ok()?.path())).collect();
        found.sort();
        files.extend(found);
    }
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            Some("sources") => sources.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    sources
}

fn choose(sources: &[Source], security: bool) -> Vec<Mirror> {
    let mut mirrors: Vec<Mirror> = Vec::new();
    for source in sources {
        let main = source.components.iter().any(|name| name == "main");
        let debian = source.suites.iter().any(|suite| is_debian(suite));
        let is_security = source.suites.iter().any(|suite| is_security(suite));
        if main && debian && is_security == security {
            let mirror = Mirror {
                uri: source.uri.clone(),
                signed_by: source.signed_by.clone(),
            };
            if !mirrors.contains(&mirror) {
                mirrors.push(mirror);
            }
        }
    }
    mirrors
}

fn is_debian(suite: &str) -> bool {
    RELEASES.iter().any(|release| {
        suite
            .strip_prefix(release)
            .is_some_and(|rest| matches!(rest, "" | "-updates" | "-backports" | "-security"))
    })
}

/// Whether a suite is one of the security archive.
pub(super) fn is_security(suite: &str) -> bool {
    suite.ends_with("-security")
}

/// What apt has lists of: for configurations that are written in some other way.
fn from_index_targets(security: bool) -> Vec<Mirror> {
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format"])
        .arg("$(ORIGIN) $(CODENAME) $(REPO_URI)")
        .arg("Created-By: Packages");
    let listing = command::output_of(&mut ask).unwrap_or_default();
    parse_index_targets(&listing, security)
}

fn parse_index_targets(listing: &str, security: bool) -> Vec<Mirror> {
    let mut mirrors: Vec<Mirror> = Vec::new();
    for line in listing.lines() {
        let mut fields = line.split_whitespace();
        let (Some("Debian"), Some(suite), Some(uri)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mirror = Mirror {
            uri: uri.to_owned(),
            signed_by: None,
        };
        if is_debian(suite) && is_security(suite) == security && !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    mirrors
}

/// A line of the one-line style: `deb [options] uri suite component...`.
fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t', '[']) {
        return None;
    }
    let mut rest = rest.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .and_then(keyring);
        rest = after;
    }
    let mut fields = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: fields.next()?,
        suites: vec![fields.next()?],
        components: fields.collect(),
        signed_by,
    })
}

/// The stanzas of a deb822 file; a stanza with several URIs gives several sources.
fn parse_deb822(text: &str) -> Vec<Source> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty())
        .flat_map(|stanza| parse_stanza(stanza).unwrap_or_default())
        .collect()
}

fn parse_stanza(lines: &[&str]) -> Option<Vec<Source>> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut current = None;
    for line in lines {
        if line.starts_with([' ', '\t']) {
            let value: &mut String = fields.get_mut(current.as_ref()?)?;
            value.push('\n');
            value.push_str(line.trim());
        } else {
            let (name, value) = line.split_once(':')?;
            let name = name.trim().to_lowercase();
            fields.insert(name.clone(), value.trim().to_owned());
            current = Some(name);
        }
    }
    let words = |name: &str| -> Vec<String> {
        let value = fields.get(name).map(String::as_str).unwrap_or_default();
        value.split_whitespace().map(str::to_owned).collect()
    };
    let enabled = fields
        .get("enabled")
        .is_none_or(|value| !matches!(value.as_str(), "no" | "false" | "0"));
    if !enabled || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    let signed_by = fields.get("signed-by").and_then(|value| keyring(value));
    let sources = words("uris").into_iter().map(|uri| Source {
        uri,
        suites: words("suites"),
        components: words("components"),
        signed_by: signed_by.clone(),
    });
    Some(sources.collect())
}

/// The first file of a Signed-By; a key written out in the source itself is not one.
fn keyring(value: &str) -> Option<PathBuf> {
    let first = value.split([',', ' ', '\n']).next()?;
    first.starts_with('/').then(|| PathBuf::from(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(uri: &str, signed_by: Option<&str>) -> Mirror {
        Mirror {
            uri: uri.to_owned(),
            signed_by: signed_by.map(PathBuf::from),
        }
    }

    #[test]
    fn deb822_sources_of_debian_are_found_among_others() {
        let text = "\
# the release
Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian
 https://second.example/debian
Suites: trixie
 trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example/debian-security
Suites: trixie-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main

Types: deb
URIs: https://vendor.example/linux
Suites: trixie
Components: stable

Types: deb-src
URIs: http://sources.example/debian
Suites: trixie
Components: main
";
        let sources = parse_deb822(text);
        let ring = Some("/usr/share/keyrings/debian-archive-keyring.gpg");
        assert_eq!(
            choose(&sources, false),
            [
                mirror("http://mirror.example/debian", ring),
                mirror("https://second.example/debian", ring)
            ]
        );
        let security = mirror("http://security.example/debian-security", None);
        assert_eq!(choose(&sources, true), [security]);
    }

    #[test]
    fn one_line_sources_of_debian_are_found_among_others() {
        let text = "\
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian/ bookworm main non-free-firmware # the release
deb [arch=amd64 signed-by=/etc/apt/k.gpg] mirror+file:/etc/apt/m.list bookworm-updates main
deb-src http://mirror.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb https://vendor.example/apt cloud-sdk-bookworm main
deb http://broken.example/debian
";
        let sources: Vec<Source> = text.lines().filter_map(parse_line).collect();
        assert_eq!(
            choose(&sources, false),
            [
                mirror("http://mirror.example/debian/", None),
                mirror("mirror+file:/etc/apt/m.list", Some("/etc/apt/k.gpg"))
            ]
        );
        let security = mirror("http://security.example/debian-security", None);
        assert_eq!(choose(&sources, true), [security]);
    }

    #[test]
    fn both_styles_are_read_from_their_places() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        let line = "deb http://one.example/debian sid main\n";
        fs::write(etc.path().join("sources.list"), line).unwrap();
        let stanza = "Types: deb\nURIs: http://two.example/debian\nSuites: sid\nComponents: main\n";
        fs::write(parts.join("debian.sources"), stanza).unwrap();
        fs::write(
            parts.join("debian.sources.save"),
            stanza.replace("two", "old"),
        )
        .unwrap();
        let found = choose(&configured(etc.path()), false);
        assert_eq!(
            found,
            [
                mirror("http://one.example/debian", None),
                mirror("http://two.example/debian", None)
            ]
        );
    }

    #[test]
    fn index_targets_serve_when_nothing_else_does() {
        let listing = "\
Debian bookworm http://mirror.example/debian/
Debian bookworm-updates http://mirror.example/debian/
Debian bookworm-security http://security.example/debian-security/
Vendor bookworm https://vendor.example/apt/
";
        let found = parse_index_targets(listing, false);
        assert_eq!(found, [mirror("http://mirror.example/debian/", None)]);
        assert_eq!(parse_index_targets(listing, true).len(), 1);
    }
}
