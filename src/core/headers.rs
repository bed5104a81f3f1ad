//! Which header fields pass, and which are for one hop only; how lists in them are read.
//!
//! Everything not named here passes unchanged and in order (RFC 9110 sections 5.1 and 5.3). What the router adds to a
//! request is written by [`super::wire::request`]; how fields frame a message is [`super::wire::response`]'s business.

use http::header::{CACHE_CONTROL, CONNECTION, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

/// The fields that the `Connection` lines of a message name: they end at this hop, whatever they are.
#[derive(Debug, Default)]
pub struct Named<'a>(Vec<&'a [u8]>);

impl<'a> Named<'a> {
    /// Reads `Connection` lines.
    pub fn collect(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut named = Self::default();
        for option in lines.flat_map(list_elements) {
            if ConnectionOption::of(option) == ConnectionOption::Field {
                named.add(option);
            }
        }
        named
    }

    /// Takes up a field's name. `Host` and `Content-Length` cannot be named away: the message would mean something else. Nor
    /// can what an ingress says of the client.
    pub fn add(&mut self, name: &'a [u8]) {
        let claims = name.get(..X_FORWARDED.len()).is_some_and(|start| start.eq_ignore_ascii_case(X_FORWARDED));
        if !claims && !name.eq_ignore_ascii_case(b"host") && !name.eq_ignore_ascii_case(b"content-length") {
            self.0.push(name);
        }
    }

    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the field of this name, in lower case, ends here because of them. So does any announcement of trailers: one that
    /// is named would be for this hop.
    pub fn stops(&self, name: &str) -> bool {
        !self.is_empty()
            && (name == "trailer" || self.0.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes())))
    }
}

/// What an element of a `Connection` line says (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionOption {
    /// The connection ends after this message.
    Close,
    /// It does not, which only HTTP/1.0 has to say.
    KeepAlive,
    /// The `Upgrade` field stands.
    Upgrade,
    /// The field of this name is for this hop only.
    Field,
}

impl ConnectionOption {
    /// What this element says.
    pub fn of(element: &[u8]) -> Self {
        let is = |known: &[u8]| element.eq_ignore_ascii_case(known);
        if is(b"close") {
            Self::Close
        } else if is(b"keep-alive") {
            Self::KeepAlive
        } else if is(b"upgrade") {
            Self::Upgrade
        } else {
            Self::Field
        }
    }
}

/// How the fields begin that tell of the client.
const X_FORWARDED: &[u8] = b"x-forwarded-";

/// The elements of a comma-separated list (RFC 9110 section 5.6.1), as bytes: one odd line must not hide the others.
pub fn list_elements(line: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// The options of all `Connection` lines (RFC 9110 section 7.6.1).
pub fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes).flat_map(list_elements)
}

/// Whether a client's field goes on to the pod as it is. `name` is in lower case.
pub fn goes_upstream(name: &str, named: &Named<'_>, trusted: bool) -> bool {
    let passes = match name {
        "connection" | "keep-alive" | "proxy-connection" | "proxy-authenticate" | "proxy-authorization" | "upgrade" => {
            false
        }
        // This hop's: the router itself answers `Expect: 100-continue` when the body is wanted (RFC 9110 section
        // 10.1.1), takes trailers off (section 6.5) and frames the body anew.
        "expect" | "te" | "trailer" | "transfer-encoding" | "content-length" => false,
        // RFC 7239's field passes ingresses unchecked, so it is nobody's word.
        "host" | "forwarded" => false,
        _ => match whose(name) {
            Whose::Anyones => true,
            Whose::Ours => false,
            Whose::Ingresss => trusted,
        },
    };
    passes && !named.stops(name)
}

/// Whose word a field is that tells of the client or the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Anyones,
    /// The router writes it anew and never believes it from a client.
    Ours,
    /// Anyone else than a trusted proxy could use it to claim another origin.
    Ingresss,
}

fn whose(name: &str) -> Whose {
    match name {
        "x-request-id" | "x-room-id" | "x-room-pod" | "x-room-epoch" | "x-forwarded-for" => Whose::Ours,
        // Traefik clears a list of these; backends read more (`-Ssl`, `-Protocol`, `-User`, `-Email`, `-Client-Cert`).
        "x-scheme" | "x-real-ip" | "x-forwarded" => Whose::Ingresss,
        _ if name.starts_with("x-forwarded-") => Whose::Ingresss,
        // CGI and what descends from it make the same variable of `X_Room_Id` and `X-Room-Id`.
        _ if name.contains('_') && whose(&name.replace('_', "-")) != Whose::Anyones => Whose::Ours,
        _ => Whose::Anyones,
    }
}

/// Whether a pod's field goes on to the client as it is, unless `Connection` [stops](Named::stops) it. `name` is in lower case.
pub fn goes_downstream(name: &str) -> bool {
    !matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "upgrade"
            | "transfer-encoding"
            | "content-length"
            | "x-request-id"
            // What tells an answer of the router's own from a pod's.
            | "x-pod-router-error"
    )
}

/// Whether a field may come after the body: none that frames, routes or modifies the message, or is for one hop only
/// (RFC 9110 section 6.5.1). `name` is in lower case.
pub fn may_be_trailer(name: &str) -> bool {
    let never = matches!(
        name,
        "host"
            | "trailer"
            | "te"
            | "content-encoding"
            | "content-type"
            | "content-range"
            | "set-cookie"
            | "cache-control"
    );
    !never && goes_downstream(name)
}

/// Whether an answer with these fields is meant for shared caches as well, which give it to other clients as it is (RFC 9111
/// section 5.2.2).
pub fn is_for_shared_caches(headers: &HeaderMap) -> bool {
    let mut is_shared = false;
    for directive in headers.get_all(CACHE_CONTROL).iter().flat_map(|line| list_elements(line.as_bytes())) {
        let name = directive.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
        let is = |known: &[&str]| known.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is(&["private", "no-store"]) {
            return false;
        }
        is_shared |= is(&["public", "s-maxage"]);
    }
    is_shared
}

/// The values of the cookie `name`, over all `Cookie` lines (RFC 6265 section 5.4: pairs split at `;`), names and values
/// without the space around them, as backends read them (section 5.2). Other cookies may hold any byte, as browsers send them; a
/// value that is no text is none that anything accepts.
pub fn cookies<'a>(head: &'a Parts, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = head.headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    pairs.filter_map(move |pair| {
        let end = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = (pair[..end].trim_ascii(), pair[end + 1..].trim_ascii());
        (key == name.as_bytes()).then(|| std::str::from_utf8(value).unwrap_or("\u{fffd}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_line_counts_but_not_against_the_message_itself() {
        let lines: [&[u8]; 3] = [b"close, X-One", b"x-two,, host, Content-Length", b"\xff, x-four"];
        let named = Named::collect(lines.into_iter());
        for gone in ["x-one", "x-two", "x-four"] {
            assert!(!goes_upstream(gone, &named, false) && named.stops(gone), "{gone}");
        }
        assert!(goes_upstream("x_three", &named, false));
        assert!(goes_upstream("x-three", &named, false) && !named.stops("x-three"));
        assert!(!named.stops("host") && !named.stops("content-length"));
        assert!(named.stops("trailer") && !Named::default().stops("trailer") && goes_downstream("trailer"));
        let claims: [&[u8]; 1] = [b"X-Forwarded-Proto, x-real-ip"];
        let claims = Named::collect(claims.into_iter());
        assert!(goes_upstream("x-forwarded-proto", &claims, true) && !goes_upstream("x-real-ip", &claims, true));
    }

    #[test]
    fn a_trusted_proxys_word_passes_and_nobody_elses() {
        let none = Named::default();
        for claim in ["x-forwarded-proto", "x-forwarded-host", "x-real-ip", "x-forwarded-ssl", "x-forwarded"] {
            assert!(goes_upstream(claim, &none, true) && !goes_upstream(claim, &none, false), "{claim}");
        }
        for never in
            ["forwarded", "x-room-id", "x-room-pod", "x-room-epoch", "x-request-id", "x_room_id", "x-forwarded_proto"]
        {
            assert!(!goes_upstream(never, &none, true), "{never}");
        }
    }

    #[test]
    fn shared_caches_keep_what_says_so() {
        for (lines, expected) in [
            (&[][..], false),
            (&["no-cache", "max-age=60"], false),
            (&["Public"], true),
            (&["max-age=1, public, immutable"], true),
            (&["S-MaxAge=60"], true),
            (&["must-revalidate", "s-maxage = 0"], true),
            (&["public", "private"], false),
            (&["s-maxage=60, no-store"], false),
            (&["public=, publicity"], true),
            (&["publicity"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CACHE_CONTROL, HeaderValue::from_static(line));
            }
            assert_eq!(is_for_shared_caches(&headers), expected, "{lines:?}");
        }
    }

    #[test]
    fn trailers_cannot_change_the_message() {
        for never in ["content-length", "transfer-encoding", "host", "set-cookie", "connection"] {
            assert!(!may_be_trailer(never), "{never}");
        }
        assert!(may_be_trailer("server-timing"));
    }
}
