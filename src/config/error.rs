//! What is wrong with what was typed, as one line.

use std::borrow::Cow;
use std::fmt;

use super::environment::variables;

/// A wrong value, an unknown name or a contradiction: one line that names the setting, the value and what
/// would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

// === impl ConfigError ===

impl ConfigError {
    /// A whole sentence. What looks like a URL with a user in it is masked: it holds a password, whichever setting it
    /// was given to by mistake.
    pub(super) fn of(sentence: String) -> Self {
        let words = sentence.split_inclusive(char::is_whitespace).map(|word| {
            let end = word.trim_end_matches(|c: char| c.is_whitespace() || "'\":;,.?".contains(c)).len();
            let (word, rest) = word.split_at(end);
            format!("{}{rest}", masked(word))
        });
        Self(one_line(&words.collect::<String>()))
    }

    /// A setting whose value is wrong, by its flag without the dashes.
    pub(super) fn setting(flag: &str, value: &str, why: &str) -> Self {
        Self::of(format!("--{flag} ({}) cannot be '{}': {why}", variables(flag).join(", "), masked(value)))
    }

    /// An argument or a variable that is no setting of its own.
    pub(super) fn named(name: &str, value: &str, why: &str) -> Self {
        Self::of(format!("{name} cannot be '{}': {why}", masked(value)))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// A value as it may be shown: of a URL with a user, or of one of Redis' with parameters, no more than the scheme. A
/// broken one may hold its password anywhere.
pub(super) fn masked(value: &str) -> Cow<'_, str> {
    let Some((before, rest)) = value.split_once("://") else {
        return Cow::Borrowed(value);
    };
    let scheme = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '-').next().unwrap_or_default();
    if before.contains('@') {
        Cow::Borrowed("***")
    } else if rest.contains('@') || scheme.starts_with("redis") && rest.contains('?') {
        Cow::Owned(format!("{before}://***"))
    } else {
        Cow::Borrowed(value)
    }
}

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
    fn a_url_with_a_user_is_masked_wherever_it_stands() {
        for (value, shown) in [
            ("redis://u:hunter2@h", "redis://***"),
            ("tcp://:hunter2@10.0.0.1:6379", "tcp://***"),
            ("backend-0=http://u:hunter2 @h'x", "backend-0=http://***"),
            ("u:hunter2@h://x", "***"),
            ("redis-sentinel://h?sentinelPassword=hunter2", "redis-sentinel://***"),
            ("https://app.example/x?y", "https://app.example/x?y"),
            ("tcp://10.0.0.1", "tcp://10.0.0.1"),
            ("query:roomId@/socket.io/", "query:roomId@/socket.io/"),
        ] {
            assert_eq!(masked(value), shown);
            let sentence = ConfigError::setting("pod", value, "no").to_string();
            assert!(sentence.ends_with(&format!("cannot be '{shown}': no")), "{sentence}");
        }
        let sentence =
            ConfigError::of("unexpected argument 'redis://u:hunter2@h' found; use redis://, [user@]h".into());
        assert_eq!(sentence.to_string(), "unexpected argument 'redis://***' found; use redis://, [user@]h");
    }

    #[test]
    fn the_sentence_is_one_line() {
        let error = ConfigError::setting("namespace", "a\nb\u{1b}[1m", "no");
        assert_eq!(
            error.to_string(),
            r"--namespace (POD_ROUTER_NAMESPACE, POD_NAMESPACE) cannot be 'a\nb\u{1b}[1m': no"
        );
    }
}
