//! The house rules, checked: layers, lengths, bans. Each failure names the file and the rule's reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each layer may import of the crate, besides itself. The order is the one of `src/lib.rs`, from the bottom up.
const LAYERS: [(&str, &[&str]); 21] = [
    ("conformance", &[]),
    ("core", &[]),
    ("config", &["core"]),
    ("drain", &[]),
    ("limits", &["core"]),
    ("metrics", &[]),
    ("probe", &["core"]),
    ("single_flight", &[]),
    ("telemetry", &["config"]),
    ("timer", &[]),
    ("directory", &["core", "config", "metrics", "single_flight"]),
    ("dns", &["core", "single_flight"]),
    ("backends", &["config", "core", "directory", "dns", "metrics", "probe"]),
    (
        "proxy",
        &["backends", "config", "core", "directory", "dns", "drain", "limits", "metrics", "single_flight", "timer"],
    ),
    ("server", &["config", "core", "directory", "drain", "limits", "metrics", "proxy", "telemetry", "timer"]),
    ("admin", &["backends", "core", "directory", "drain", "metrics", "telemetry"]),
    ("dev", &["config", "core", "directory"]),
    ("cli", &["backends", "config", "core", "directory", "dns", "probe", "proxy"]),
    (
        "app",
        &[
            "admin",
            "backends",
            "config",
            "core",
            "directory",
            "dns",
            "drain",
            "limits",
            "metrics",
            "proxy",
            "server",
            "telemetry",
        ],
    ),
    ("heap", &[]),
    ("main", &["app", "cli", "config", "dev", "directory", "heap", "telemetry"]),
];

/// Text that may not occur in product code, where it may all the same, and why.
const BANS: [(&str, &[&str], &str); 13] = [
    ("fred", &["directory/redis", "telemetry.rs"], "one file to change when the Redis client changes"),
    (
        "StatusCode::",
        &["proxy/reject.rs", "proxy/record.rs", "core/wire/response.rs", "admin.rs", "dev/"],
        "only reject.rs picks a status",
    ),
    ("env::var", &["config/"], "only the configuration reads the environment"),
    ("set_var", &[], "the environment is shared by all threads"),
    (
        "tokio::spawn(",
        &["dev/", "directory/redis", "single_flight.rs"],
        "tasks of the data path stay on their thread, in a roster",
    ),
    (".unwrap()", &[], "`expect` says why it cannot fail"),
    ("todo!", &[], "no stubs"),
    ("unimplemented!", &[], "no stubs"),
    ("dbg!", &[], "left over"),
    ("println!", &["main.rs", "cli/"], "output is for the log, or for the commands that answer"),
    ("FIXME", &[], "an issue, or now"),
    ("thread::sleep", &[], "it would stop a worker"),
    ("async_trait", &[], "the one trait uses native async"),
];

/// What the core may not name, for it neither awaits nor looks around.
const NOT_IN_CORE: [&str; 9] =
    ["async ", ".await", "tokio", "hyper", "tracing", "Instant::now", "SystemTime", "fastrand", "std::env"];

struct Source {
    /// Below `src`, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The code in front of the tests, without comments: what the rules are about. Tests in a file of their own are only
    /// named, wherever modules are, and end nothing.
    fn code(&self) -> String {
        let product = self.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = product.lines().filter(|line| !line.trim_start().starts_with("//"));
        code.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.contains("/tests/")
    }

    fn layer(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }
}

/// The Rust files below a folder: their paths in it, with slashes, and their texts.
fn files(root: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path: PathBuf = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                let below = path.strip_prefix(root).expect("found below it").to_string_lossy().replace('\\', "/");
                found.push((below, text));
            }
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let found = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(found.len() > 30, "where are the sources?");
    found.into_iter().map(|(path, text)| Source { path, text }).collect()
}

/// The paths below `src` and the code there, without tests and comments.
pub(crate) fn product_sources() -> impl Iterator<Item = (String, String)> {
    sources().into_iter().filter(|source| !source.is_test()).map(|source| (source.path.clone(), source.code()))
}

/// The crate's modules that a file names: `crate::x`, or `pod_router::{x, y}` in `main.rs`.
fn imports(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for start in ["crate::", "use pod_router::"] {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at + start.len()..];
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
                None => vec![rest],
            };
            let first_word =
                |name: &str| name.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().map(str::to_owned);
            modules.extend(names.into_iter().filter_map(first_word));
        }
    }
    modules
}

#[test]
fn what_follows_the_name_of_the_tests_is_looked_at() {
    let code = |text: &str| Source { path: "x.rs".to_owned(), text: text.to_owned() }.code();
    assert_eq!(code("a;\n#[cfg(test)]\nmod tests;\nb; // c\n"), "a;\n#[cfg(test)]\nmod tests;\nb;");
    assert_eq!(code("a;\n// b\n#[cfg(test)]\nmod tests {\nc;\n}\n"), "a;");
}

#[test]
fn imports_point_down() {
    for source in sources().iter().filter(|source| source.path != "lib.rs" && !source.is_test()) {
        let layer = source.layer();
        let (_, below) =
            LAYERS.iter().find(|(name, _)| *name == layer).unwrap_or_else(|| panic!("{layer} has no layer"));
        for import in imports(&source.code()) {
            assert!(
                import == layer || below.contains(&import.as_str()),
                "{}: {layer} must not import {import}",
                source.path
            );
        }
    }
}

#[test]
fn the_core_decides_and_does_nothing_else() {
    for source in sources().iter().filter(|source| source.layer() == "core") {
        for banned in NOT_IN_CORE {
            assert!(!source.code().contains(banned), "{}: {banned:?} in the core", source.path);
        }
    }
}

#[test]
fn what_is_banned_does_not_occur() {
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (banned, allowed, reason) in BANS {
            let excused = allowed.iter().any(|place| source.path.starts_with(place));
            assert!(excused || !source.code().contains(banned), "{}: {banned:?}: {reason}", source.path);
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for source in sources() {
        let length = source.text.lines().count();
        assert!(length <= 450, "{} has {length} lines: what else does it own?", source.path);
        let documented = source.text.starts_with("//!") || source.is_test();
        assert!(documented, "{} does not say what it owns", source.path);
    }
}

/// Cargo.toml: a line that names a crate says what for, and takes no default features.
#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("it is there");
    let section = manifest.split("[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next()).expect("a section");
    for line in section.lines().filter(|line| line.contains(" = {")) {
        assert!(line.contains(" # "), "no reason given: {line}");
        assert!(line.contains("default-features = false"), "default features: {line}");
    }
}

/// The names that `text` has after `before`, where they begin with `rfc`.
fn clauses<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let names = text.split(before).skip(1);
    names
        .map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default())
        .filter(|name| name.starts_with("rfc"))
}

/// `src/conformance.rs` names the tests of all clauses, and only tests that there are.
#[test]
fn the_table_of_clauses_is_that_of_the_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = files(&root.join("tests/it")).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n");
    let table = fs::read_to_string(root.join("src/conformance.rs")).expect("it is there");
    let (named, there): (BTreeSet<_>, BTreeSet<_>) = (clauses(&table, "`").collect(), clauses(&tests, "fn ").collect());
    assert!(there.len() > 40, "where are the tests?");
    assert_eq!(named, there, "only on the left: no such test; only on the right: not in the table");
}
