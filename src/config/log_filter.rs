//! `RUST_LOG`: refused where it would silently mean something else than was typed.
//!
//! It is read by `tracing-subscriber`, which takes a word that is no level for the name of a module: `inof` turns on what a
//! module called so logs, and everything else off. What it cannot read it leaves out. Here both are said instead.

use tracing_subscriber::EnvFilter;

use super::error::ConfigError;

/// The levels, as `tracing` reads them: in any case, and as numbers.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Refuses what is no list of levels and `target=level`.
///
/// # Errors
///
/// Names the part that is wrong.
pub(super) fn check(text: &str) -> Result<(), ConfigError> {
    for part in text.split(',').filter(|part| !part.is_empty()) {
        // A span's fields, which only experts write, may hold anything.
        if part.contains(['[', ']', '{', '}']) {
            continue;
        }
        let known = match part.split_once('=') {
            Some((target, level)) => is_target(target) && is_level(level),
            None => is_level(part) || part == "pod_router" || part.starts_with("pod_router::") && is_target(part),
        };
        if !known {
            return Err(wrong(text, part));
        }
    }
    EnvFilter::builder().parse(text).map(drop).map_err(|_| wrong(text, text))
}

fn is_level(text: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) || matches!(text.as_bytes(), [b'0'..=b'5'])
}

/// The path of a module.
fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-' | b'.'))
}

fn wrong(text: &str, part: &str) -> ConfigError {
    let levels = LEVELS.join(", ");
    let right =
        format!("'{part}' is neither a level ({levels}) nor TARGET=LEVEL; for example info,pod_router::proxy=debug");
    ConfigError::named("RUST_LOG", text, &right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_what_it_says_is_taken() {
        for good in [
            "info",
            "DEBUG",
            "off",
            "3",
            "info,pod_router::access=off",
            "info,fred=off",
            "pod_router",
            "pod_router::proxy",
            "warn,pod_router=TRACE,hyper=debug,",
            "[span{field=1}]=debug",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_would_mean_something_else_is_refused() {
        for (bad, part) in [
            ("inof", "'inof'"),
            ("info,verbose", "'verbose'"),
            ("!!bad==", "'!!bad=='"),
            ("pod_router=verbose", "'pod_router=verbose'"),
            ("pod_router:debug", "'pod_router:debug'"),
            ("=info", "'=info'"),
            ("info;debug", "'info;debug'"),
            ("6", "'6'"),
            ("info, fred=off", "' fred=off'"),
            ("[", "'['"),
        ] {
            let error = check(bad).expect_err(bad).to_string();
            assert!(error.starts_with("RUST_LOG cannot be") && error.contains(part), "{bad}: {error}");
        }
    }
}
