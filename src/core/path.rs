//! A path as a backend may read it: percent-decoded, backslashes as slashes, dot segments resolved.
//!
//! The router goes by the path as it is written. Where a backend could read another one, a room or a limit must not be
//! got around: whoever asks compares both.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The ways to read a path that is not plainly written; none for one that is.
///
/// `..` goes up from an empty segment (`//`) as from any other (WHATWG URL), or empty segments have been taken out before
/// (nginx's `merge_slashes`): backends do either.
pub fn readings(path: &str) -> impl Iterator<Item = String> {
    let count = if is_plain(path) { 0 } else { 2 };
    let decoded = if count == 0 { Cow::Borrowed("") } else { percent_decode_str(path).decode_utf8_lossy() };
    [true, false].into_iter().take(count).map(move |keep_empty| resolve(&decoded, keep_empty))
}

/// A path without the parameters of its segments (`;jsessionid=…`, RFC 3986 section 3.3), which may name a session as a
/// query does.
pub fn without_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains(';') {
        return Cow::Borrowed(path);
    }
    let names = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join("/").into()
}

/// A path as it may be written into a log: without the parameters of its segments, without all that a percent-encoded `?`
/// begins, and without a user in front of a host (`//user:password@host/`). These carry sessions, tokens and passwords,
/// also where they are not written as they should be.
pub fn loggable(path: &str) -> Cow<'_, str> {
    let names_a_host = path.starts_with("//");
    if !names_a_host && !path.bytes().any(|byte| matches!(byte, b'%' | b';')) {
        return Cow::Borrowed(path);
    }
    let path = before(path, &["%3f", "%3F"]);
    let mut segments: Vec<_> = path.split('/').map(|segment| before(segment, &[";", "%3b", "%3B"])).collect();
    if let (true, Some(host)) = (names_a_host, segments.get_mut(2)) {
        *host = host.rsplit('@').next().unwrap_or_default();
    }
    segments.join("/").into()
}

/// What is in front of the first of these marks.
fn before<'a>(text: &'a str, marks: &[&str]) -> &'a str {
    let first = marks.iter().filter_map(|mark| text.find(mark)).min();
    first.map_or(text, |at| &text[..at])
}

/// Whether there is only one way to read a path. Most have neither of what makes for others.
pub fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    !bytes.iter().any(|byte| matches!(byte, b'%' | b'\\')) && !bytes.windows(2).any(|two| matches!(two, b"/." | b"//"))
}

fn resolve(decoded: &str, keep_empty: bool) -> String {
    let mut segments = Vec::new();
    let mut directory = false;
    for segment in decoded.split(['/', '\\']).skip(1) {
        directory = matches!(segment, "." | ".." | "");
        match segment {
            ".." => drop(segments.pop()),
            "." => {}
            "" if !keep_empty => {}
            _ => segments.push(segment),
        }
    }
    let mut path = String::from("/") + &segments.join("/");
    if directory && !path.ends_with('/') {
        path.push('/');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_read_as_it_is_written() {
        for path in ["/", "/api/x", "/socket.io/", "/a.b/c-d_e~f", ""] {
            assert_eq!(readings(path).count(), 0, "{path}");
        }
    }

    #[test]
    fn parameters_are_cut_from_each_segment() {
        for (path, cut) in [
            ("/a;jsessionid=secret/b;v=1;w=2", "/a/b"),
            ("/;x/a;/", "//a/"),
            ("/a;b", "/a"),
            ("*", "*"),
            ("", ""),
            ("/a%3Bb/c", "/a%3Bb/c"),
        ] {
            assert_eq!(without_parameters(path), cut, "{path}");
        }
        assert!(matches!(without_parameters("/a/b"), Cow::Borrowed("/a/b")));
    }

    #[test]
    fn what_may_be_secret_is_cut_from_what_is_logged() {
        for (path, cut) in [
            ("/a;jsessionid=secret/b;v=1", "/a/b"),
            ("/a%3Bjsessionid=secret/b%3bv=1;w", "/a/b"),
            ("/a%3Ftoken=secret/b", "/a"),
            ("/a%3ftoken=secret/b;c", "/a"),
            ("//user:secret@host/x", "//host/x"),
            ("//user:se@cret@host", "//host"),
            ("//host/@x", "//host/@x"),
            ("//", "//"),
            ("/%41%2f%", "/%41%2f%"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(loggable(path), cut, "{path}");
        }
        assert!(matches!(loggable("/a/@b"), Cow::Borrowed("/a/@b")));
    }

    #[test]
    fn other_readings_are_found() {
        for (path, merged) in [
            ("/socket%2eio/", "/socket.io/"),
            ("/%73ocket.io/", "/socket.io/"),
            ("/x/../api/x", "/api/x"),
            ("/./api/x", "/api/x"),
            ("/api\\x", "/api/x"),
            ("//api/x", "/api/x"),
            ("/x/%2e%2e/api/", "/api/"),
            ("/x%2f..%2fapi", "/api"),
            ("/../..", "/"),
            ("/a/b/..", "/a/"),
        ] {
            assert!(readings(path).any(|read| read == merged), "{path}: {:?}", readings(path).collect::<Vec<_>>());
        }
    }
}
