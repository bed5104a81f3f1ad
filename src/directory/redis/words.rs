//! What went wrong, in words for the log and for `check`.
//!
//! fred keeps of an I/O error only how Rust's `Debug` writes it: `Os { code: 111, kind: ConnectionRefused, message:
//! "Connection refused" }`. Whoever reads the log wants the sentence in it. Nothing is decided by these words.

use fred::error::{Error, ErrorKind};

/// The error as a sentence: an I/O error's own words, of others fred's name for their kind as well.
pub(super) fn in_words(error: &Error) -> String {
    let said = unwrapped(error.details());
    if *error.kind() == ErrorKind::IO { said } else { format!("{}: {said}", error.kind().to_str()) }
}

/// What stands in an [`io::Error`](std::io::Error) that was written by `Debug`; any other text as it is.
fn unwrapped(text: &str) -> String {
    if let Some(kind) = text.strip_prefix("Kind(").and_then(|rest| rest.strip_suffix(')')) {
        return separated(kind);
    }
    let inside = |name: &str, field: &str| {
        let fields = text.strip_prefix(name)?.strip_suffix(" }")?;
        fields.split_once(field).map(|(_, value)| value)
    };
    let found = inside("Os { ", "message: ").or_else(|| inside("Error { ", "message: "));
    match found.or_else(|| inside("Custom { ", "error: ")) {
        // It is shorter than what it stood in, so this ends.
        Some(value) => unwrapped(&unquoted(value)),
        None => text.to_owned(),
    }
}

/// A text without the quotes and escapes that `Debug` gives it.
fn unquoted(value: &str) -> String {
    serde_json::from_str(value).unwrap_or_else(|_| value.trim_matches('"').to_owned())
}

/// `UnexpectedEof` as `unexpected eof`.
fn separated(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_io_error_is_its_message() {
        let refused = || io::Error::from_raw_os_error(111);
        for (error, words) in [
            (refused(), "Connection refused"),
            (io::ErrorKind::UnexpectedEof.into(), "unexpected eof"),
            (io::Error::other("failed to lookup \"a\""), "failed to lookup \"a\""),
            (io::Error::other("a } in it"), "a } in it"),
            (io::Error::other(refused()), "Connection refused"),
            // Of a type that has no words of its own there.
            (io::Error::other(io::Error::from(io::ErrorKind::TimedOut)), "timed out"),
        ] {
            assert_eq!(in_words(&Error::from(error)), words);
        }
    }

    #[test]
    fn what_is_no_io_error_stays_as_it_is() {
        let refused = Error::new(ErrorKind::Auth, "WRONGPASS invalid username-password pair");
        assert_eq!(in_words(&refused), "Authentication Error: WRONGPASS invalid username-password pair");
        for text in ["", "Os { ", "Custom { kind: Other }", "a message: \"b\" }", "Kind(", "Error { message: "] {
            assert_eq!(in_words(&Error::new(ErrorKind::IO, text)), text);
        }
    }
}
