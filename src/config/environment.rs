//! The environment variables: which setting each stands for, and which must be a mistake.
//!
//! A variable takes the place of its setting's default, so that a flag wins without a rule of its own. An
//! unknown `POD_ROUTER_` variable is refused as an unknown flag is: a misspelt one would otherwise leave a
//! default in force that nobody chose. Those that Kubernetes sets by itself for a Service called
//! `pod-router` are none of ours.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::ContextKind;
use clap::{Arg, ArgAction, Command};

use super::error::ConfigError;

const PREFIX: &str = "POD_ROUTER_";

/// The variables of the seeds that stand for a setting, after its own.
const SEED_NAMES: [(&str, &str); 4] = [
    ("redis-url", "REDIS_URL"),
    ("namespace", "POD_NAMESPACE"),
    ("max-rooms-per-pod", "MAX_ROOMS_PER_POD"),
    ("max-participants-per-pod", "MAX_PARTICIPANTS_PER_POD"),
];

/// The seeds' parts of a Redis URL, for which there are no flags.
pub(super) const REDIS_PARTS: [&str; 5] = ["REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB"];

/// Read by `tracing-subscriber` itself; here only looked at.
pub(super) const LOG_FILTER: &str = "RUST_LOG";

/// The variables that are set to something: an empty one counts as unset.
#[derive(Debug, Default)]
pub(super) struct Environment(BTreeMap<String, String>);

/// The variables that stand for a setting, the first one first.
pub(super) fn variables(flag: &str) -> Vec<String> {
    let own = format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"));
    let seeds = SEED_NAMES.iter().filter(|(of, _)| *of == flag).map(|(_, name)| (*name).to_owned());
    std::iter::once(own).chain(seeds).collect()
}

/// Whether an argument is a setting, as against `--help` or what `explain` is asked.
pub(super) fn is_setting(arg: &Arg) -> bool {
    arg.get_help_heading().is_some()
}

/// Applies a change to every setting of the program and its commands.
pub(super) fn map_settings(command: Command, change: &impl Fn(Arg) -> Arg) -> Command {
    command
        .mut_args(|arg| if is_setting(&arg) { change(arg) } else { arg })
        .mut_subcommands(|subcommand| map_settings(subcommand, change))
}

// === impl Environment ===

impl Environment {
    /// Takes the variables that could concern the router.
    ///
    /// # Errors
    ///
    /// One of them is not text.
    pub(super) fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut ours = BTreeMap::new();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            let is_seed = REDIS_PARTS.contains(&name.as_str()) || SEED_NAMES.iter().any(|(_, seed)| *seed == name);
            if value.is_empty() || !(is_seed || name == LOG_FILTER || name.starts_with(PREFIX)) {
                continue;
            }
            let value = value.into_string().map_err(|_| ConfigError::of(format!("{name} is not valid UTF-8")))?;
            ours.insert(name, value);
        }
        Ok(Self(ours))
    }

    /// The value of a variable that is set.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of a setting, from its own variable or a seed's.
    pub(super) fn setting(&self, flag: &str) -> Option<&str> {
        variables(flag).iter().find_map(|name| self.get(name))
    }

    /// The command with the variables in the place of the defaults.
    pub(super) fn as_defaults(&self, command: Command) -> Command {
        map_settings(command, &|arg| {
            let flag = arg.get_long().unwrap_or_default();
            match self.setting(flag) {
                None => arg,
                Some(value) if matches!(arg.get_action(), ArgAction::Append) => {
                    let values = split_list(flag, value);
                    arg.default_values(values)
                }
                Some(value) => arg.default_value(value.to_owned()),
            }
        })
    }

    /// Refuses a `POD_ROUTER_` variable that no setting has.
    ///
    /// # Errors
    ///
    /// The first such variable, with what was probably meant.
    pub(super) fn check_names(&self, command: &Command) -> Result<(), ConfigError> {
        let unknown = self.0.iter().filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)));
        for (name, rest, value) in unknown {
            let flag = rest.to_ascii_lowercase().replace('_', "-");
            let known = command.get_arguments().any(|arg| is_setting(arg) && arg.get_long() == Some(flag.as_str()));
            if known && rest == rest.to_ascii_uppercase() || is_service_link(rest, value) {
                continue;
            }
            let meant = if REDIS_PARTS.contains(&rest) { Some(rest.to_owned()) } else { similar(command, &flag) };
            let hint = meant.map_or_else(
                || "pod-router --help lists the variables".to_owned(),
                |meant| format!("did you mean {meant}?"),
            );
            return Err(ConfigError::of(format!("{name} is not a variable of pod-router; {hint}")));
        }
        Ok(())
    }
}

/// The variable of the flag that clap would suggest instead of this one.
fn similar(command: &Command, flag: &str) -> Option<String> {
    let tried = command.clone().try_get_matches_from(["pod-router".to_owned(), format!("--{flag}")]);
    let flag = tried.err()?.get(ContextKind::SuggestedArg)?.to_string();
    variables(flag.trim_start_matches('-')).into_iter().next()
}

/// Whether Kubernetes set this variable for a Service whose name begins with `pod-router`
/// (`_SERVICE_HOST`, `_SERVICE_PORT`, `_SERVICE_PORT_<NAME>`, `_PORT=tcp://…`, `_PORT_<n>_TCP…`).
fn is_service_link(rest: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    // A Service called `pod-router` has no more name than the prefix; `pod-router-admin` has ADMIN_.
    let name = format!("_{rest}");
    let port_of_protocol = name.split("_PORT_").skip(1).any(|tail| {
        let mut words = tail.split('_');
        words.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && words.next().is_some_and(|protocol| PROTOCOLS.contains(&protocol))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && value.contains("://")
        || port_of_protocol
}

/// Splits the list in a repeatable setting's variable. An affinity rule may hold a regular expression with a
/// comma (`room_\d{1,3}`), so that list is split only where a word and a colon follow: no room id can
/// contain either character, hence no useful expression spells them out. A route holds a list itself: it ends where a
/// slash follows.
fn split_list(flag: &str, text: &str) -> Vec<String> {
    let begins_item = |piece: &str| match flag {
        "affinity" => piece
            .trim_start()
            .split_once(':')
            .is_some_and(|(kind, _)| !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphabetic())),
        "route" => piece.trim_start().starts_with('/'),
        _ => true,
    };
    let mut items: Vec<String> = Vec::new();
    for piece in text.split(',') {
        match items.last_mut() {
            Some(item) if !begins_item(piece) => {
                item.push(',');
                item.push_str(piece);
            }
            _ => items.push(piece.to_owned()),
        }
    }
    items.iter().map(|item| item.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::args::Cli;
    use super::*;
    use clap::CommandFactory;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(variables.iter().map(|(name, value)| (name.into(), value.into()))).expect("text")
    }

    #[test]
    fn an_empty_variable_and_a_strangers_are_not_there() {
        let env = environment(&[("POD_ROUTER_LISTEN", ""), ("HOME", "/root"), ("REDIS_HOST", "redis")]);
        assert_eq!(env.setting("listen"), None);
        assert_eq!(env.get("HOME"), None);
        assert_eq!(env.get("REDIS_HOST"), Some("redis"));
    }

    #[test]
    fn a_settings_own_variable_comes_before_the_seeds() {
        let env = environment(&[("POD_ROUTER_NAMESPACE", "a"), ("POD_NAMESPACE", "b"), ("MAX_ROOMS_PER_POD", "7")]);
        assert_eq!(env.setting("namespace"), Some("a"));
        assert_eq!(env.setting("max-rooms-per-pod"), Some("7"));
        assert_eq!(variables("cache-ttl"), ["POD_ROUTER_CACHE_TTL"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_text_is_refused_if_it_is_ours() {
        use std::os::unix::ffi::OsStringExt;
        let with = |name: &str| Environment::new([(name.into(), OsString::from_vec(vec![0xff]))]);
        assert!(with("HOME").is_ok());
        assert!(with("REDIS_PASSWORD").is_err_and(|error| error.to_string() == "REDIS_PASSWORD is not valid UTF-8"));
    }

    #[test]
    fn service_links_are_not_settings() {
        let command = Cli::command();
        for (name, value) in [
            ("POD_ROUTER_SERVICE_HOST", "10.0.0.1"),
            ("POD_ROUTER_SERVICE_PORT", "3001"),
            ("POD_ROUTER_SERVICE_PORT_HTTP", "3001"),
            ("POD_ROUTER_PORT", "tcp://10.0.0.1:3001"),
            ("POD_ROUTER_PORT_3001_TCP", "tcp://10.0.0.1:3001"),
            ("POD_ROUTER_PORT_3001_TCP_ADDR", "10.0.0.1"),
            ("POD_ROUTER_ADMIN_SERVICE_HOST", "10.0.0.2"),
            ("POD_ROUTER_ADMIN_PORT", "tcp://10.0.0.2:9901"),
            ("POD_ROUTER_ADMIN_PORT_9901_TCP_PROTO", "tcp"),
            ("POD_ROUTER_CACHE_TTL", "2s"),
        ] {
            assert!(environment(&[(name, value)]).check_names(&command).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_unknown_variable_is_named_with_what_was_meant() {
        let command = Cli::command();
        for (name, value, hint) in [
            ("POD_ROUTER_CACHE_TLL", "2s", "did you mean POD_ROUTER_CACHE_TTL?"),
            ("POD_ROUTER_DEFAULT_BACKENDS", "a:1", "did you mean POD_ROUTER_DEFAULT_BACKEND?"),
            ("POD_ROUTER_REDIS_HOST", "redis", "did you mean REDIS_HOST?"),
            ("POD_ROUTER_cache_ttl", "2s", "not a variable of pod-router"),
            ("POD_ROUTER_PORT", "3001", "not a variable of pod-router"),
            ("POD_ROUTER_PORT_X_TCP", "1", "not a variable of pod-router"),
            ("POD_ROUTER_JSON", "1", "not a variable of pod-router"),
            ("POD_ROUTER_HELP", "1", "--help lists"),
            ("POD_ROUTER_", "1", "--help lists"),
        ] {
            let error = environment(&[(name, value)]).check_names(&command).expect_err(name).to_string();
            assert!(error.starts_with(name) && error.contains(hint), "{error}");
        }
    }

    #[test]
    fn a_list_is_split_at_commas_but_not_inside_a_rule() {
        for (flag, text, expected) in [
            ("pod", "a-0=h:1, a-1=h:2", vec!["a-0=h:1", "a-1=h:2"]),
            ("pod", "a-0=h:1,", vec!["a-0=h:1", ""]),
            ("affinity", r"path:r\d{1,3},query:room@/x/", vec![r"path:r\d{1,3}", "query:room@/x/"]),
            ("affinity", "header:X-Room,\n  cookie:room", vec!["header:X-Room", "cookie:room"]),
            ("route", "/a/=h:1,i:2 balance=p2c, /b/=h:1", vec!["/a/=h:1,i:2 balance=p2c", "/b/=h:1"]),
            ("affinity", "path:(a|b,c),d", vec!["path:(a|b,c),d"]),
            // A misspelt kind becomes a rule of its own, which is then refused.
            ("affinity", "path:a,querry:b", vec!["path:a", "querry:b"]),
        ] {
            assert_eq!(split_list(flag, text), expected, "{text}");
        }
    }
}
