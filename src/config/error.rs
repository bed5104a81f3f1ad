//! What is wrong with what was typed, as one line.

use std::fmt;

use super::environment::variables;

/// A wrong value, an unknown name or a contradiction: one line that names the setting, the value and what
/// would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

// === impl ConfigError ===

impl ConfigError {
    /// A whole sentence.
    pub(super) fn of(sentence: String) -> Self {
        Self(one_line(&sentence))
    }

    /// A setting whose value is wrong, by its flag without the dashes.
    pub(super) fn setting(flag: &str, value: &str, why: &str) -> Self {
        Self::of(format!("--{flag} ({}) cannot be '{value}': {why}", variables(flag).join(", ")))
    }

    /// An argument or a variable that is no setting of its own.
    pub(super) fn named(name: &str, value: &str, why: &str) -> Self {
        Self::of(format!("{name} cannot be '{value}': {why}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// A line break in a value must not become one in the message.
fn one_line(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_is_one_line() {
        let error = ConfigError::setting("namespace", "a\nb\u{1b}[1m", "no");
        assert_eq!(
            error.to_string(),
            r"--namespace (POD_ROUTER_NAMESPACE, POD_NAMESPACE) cannot be 'a\nb\u{1b}[1m': no"
        );
    }
}
