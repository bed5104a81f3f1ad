//! From the arguments and the environment to one command, ready to run, or to the end of the program.

use std::ffi::OsString;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Uri};

use super::args::{Action, Cli, ExplainArgs};
use super::convert::Surroundings;
use super::environment::{Environment, LOG_FILTER, map_settings, variables};
use super::error::{ConfigError, masked};
use super::{Config, LogFormat, log_filter};

/// What the program was asked to do.
#[derive(Debug)]
pub enum Command {
    /// Be the router.
    Serve(Box<Config>),
    /// Be the router, its directory and its pods.
    Dev(DevArgs),
    /// Try the configuration.
    Check(Box<Config>),
    /// Say where a request would go.
    Explain(Box<Question>),
    /// Ask a running router whether it lives.
    Health(HealthCheck),
}

/// The settings of `dev`.
#[derive(Clone, Copy, Debug)]
pub struct DevArgs {
    /// `--listen`: the data listener.
    pub listen: SocketAddr,
    /// `--admin-listen`: health, metrics and status.
    pub admin_listen: SocketAddr,
    /// `--log-format`.
    pub log_format: LogFormat,
}

/// Whom `health` asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The admin listener, as this machine reaches it.
    pub admin: SocketAddr,
    /// For the whole answer.
    pub timeout: Duration,
}

/// What `explain` is asked.
#[derive(Debug)]
pub struct Question {
    /// The configuration it is answered by.
    pub config: Config,
    /// The head of the request: its target as typed, and the headers given.
    pub head: Parts,
    /// Whether the answer is for a machine.
    pub json: bool,
}

/// The end of the program before it did anything: help, the version, or a wrong setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for, for standard output; exit status 0.
    Answer(String),
    /// What is wrong, one line for standard error; exit status 64 (`EX_USAGE` of sysexits.h).
    Wrong(ConfigError),
}

/// Reads the command from this process's arguments and environment.
///
/// # Errors
///
/// There is nothing to run; see [`Exit`].
pub fn from_process() -> Result<Command, Exit> {
    parse(std::env::args_os(), std::env::vars_os(), stdout().is_terminal())
}

/// Reads the command from `args`, the program's name first, and the environment's `variables`.
///
/// # Errors
///
/// There is nothing to run; see [`Exit`].
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    on_terminal: bool,
) -> Result<Command, Exit> {
    let args = with_negative_values(args);
    let command = documented();
    // Once without the variables: --help shows the program's defaults, whatever the environment holds.
    command.clone().try_get_matches_from(&args).map_err(|error| Exit::from(&error))?;
    let env = Environment::new(variables)?;
    env.check_names(&command)?;
    let matches = env.as_defaults(command).try_get_matches_from(&args).map_err(|error| Exit::from(&error))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Exit::from(&error))?;
    if let Some(filter) = env.get(LOG_FILTER)
        && !matches!(cli.action, Some(Action::Health(_)))
    {
        log_filter::check(filter)?;
    }
    let around = Surroundings { env, on_terminal };
    Ok(match cli.action {
        None => Command::Serve(Box::new(cli.serve.into_config(&around)?)),
        Some(Action::Serve(args)) => Command::Serve(Box::new(args.into_config(&around)?)),
        Some(Action::Dev(args)) => Command::Dev(args.into_dev_args(&around)?),
        Some(Action::Check(args)) => Command::Check(Box::new(args.into_config(&around)?)),
        Some(Action::Explain(args)) => Command::Explain(Box::new(question(*args, &around)?)),
        Some(Action::Health(args)) => Command::Health(args.into_health_check()?),
    })
}

/// `--cache-ttl -1s` as `--cache-ttl=-1s`: clap would take the value for another flag, and name neither the setting nor what
/// would be right. No flag begins with a digit.
fn with_negative_values(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_flag =
        |arg: &OsString| arg.to_str().is_some_and(|arg| arg.len() > 2 && arg.starts_with("--") && !arg.contains('='));
    let is_negative = |arg: &OsString| matches!(arg.as_encoded_bytes(), [b'-', b'0'..=b'9' | b'.', ..]);
    args.into_iter().fold(Vec::new(), |mut joined, arg| {
        match joined.last_mut() {
            Some(flag) if is_negative(&arg) && is_flag(flag) => {
                flag.push("=");
                flag.push(arg);
            }
            _ => joined.push(arg),
        }
        joined
    })
}

/// The command line, with each setting's variables in its help.
pub(super) fn documented() -> clap::Command {
    map_settings(Cli::command(), &|arg| {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let variables = variables(arg.get_long().unwrap_or_default()).join(", ");
        arg.help(format!("{help} [env: {variables}]"))
    })
}

fn question(args: ExplainArgs, around: &Surroundings) -> Result<Question, ConfigError> {
    let mut head = Request::new(()).into_parts().0;
    head.uri = target(&args.url)?;
    for line in &args.header {
        let (name, value) = header(line)?;
        head.headers.append(name, value);
    }
    Ok(Question { config: args.settings.into_config(around)?, head, json: args.json })
}

fn target(text: &str) -> Result<Uri, ConfigError> {
    let is_url = ["http://", "https://", "ws://", "wss://"].iter().any(|scheme| text.starts_with(scheme));
    let parsed = if is_url || text.starts_with('/') { text.parse().ok() } else { None };
    parsed.ok_or_else(|| {
        let right = "it has to be a path such as /experiment/room_a, or a whole URL, its special characters encoded";
        ConfigError::named("URL", text, right)
    })
}

fn header(line: &str) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let pair = line
        .split_once(':')
        .and_then(|(name, value)| Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?)));
    pair.ok_or_else(|| ConfigError::named("--header", line, "it has to be 'Name: value'"))
}

// === impl Exit ===

impl Exit {
    /// The exit status.
    pub fn code(&self) -> u8 {
        match self {
            Self::Answer(_) => 0,
            Self::Wrong(_) => 64,
        }
    }

    /// Says it, and gives the exit status to end with.
    pub fn report(&self) -> ExitCode {
        // A reader that has gone away (`pod-router --help | head -1`) changes nothing.
        let _ = match self {
            Self::Answer(text) => stdout().write_all(text.as_bytes()),
            Self::Wrong(error) => writeln!(stderr(), "pod-router: {error}"),
        };
        ExitCode::from(self.code())
    }
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Self {
        Self::Wrong(error)
    }
}

impl From<&clap::Error> for Exit {
    fn from(error: &clap::Error) -> Self {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            Self::Answer(error.to_string())
        } else {
            Self::Wrong(ConfigError::of(sentence(error)))
        }
    }
}

/// clap's first paragraph as one line, with its suggestion, without the usage that follows it.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    // A password may hold what ends a word, so the sentence alone does not tell where it ends.
    let typed = [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand];
    let typed = typed.into_iter().filter_map(|kind| error.get(kind)).map(ToString::to_string);
    let line = typed.fold(line, |line, typed| line.replace(&typed, &masked(&typed)));
    let said = line.trim_start_matches("error: ");
    let suggestions = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand];
    let meant = suggestions.into_iter().find_map(|kind| error.get(kind)).map(ContextValue::to_string);
    meant.map_or_else(|| format!("{said}; see pod-router --help"), |meant| format!("{said}; did you mean '{meant}'?"))
}

#[cfg(test)]
mod tests;
