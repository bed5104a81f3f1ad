//! Where a request's room id comes from: the affinity rules.
//!
//! The room must be the one the backend will see, so each source is read the way a backend reads it:
//! a path segment as the raw bytes of the request target, a query value by the WHATWG algorithm that
//! Socket.IO's server uses (`new URL(...).searchParams`). Where two readers could disagree (a name given
//! twice, a segment that names a room only once it is decoded), the request is refused: an ambiguous room
//! is how two pods end up owning one.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use percent_encoding::percent_decode_str;
use regex::Regex;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::headers::cookies;
use super::path;
use super::query;
use super::room::RoomId;

/// One place a room id can come from, as `--affinity` states it.
#[derive(Clone, Debug)]
pub enum AffinityRule {
    /// `path:REGEX`: the first whole path segment, undecoded, that the expression matches.
    Path(SegmentPattern),
    /// `query:NAME[@PREFIX]`: a query parameter.
    Query(NamedSource<String>),
    /// `header:NAME[@PREFIX]`: a request header.
    Header(NamedSource<HeaderName>),
    /// `cookie:NAME[@PREFIX]`: a cookie.
    Cookie(NamedSource<String>),
}

/// A name to read, and the path prefix under which it counts.
#[derive(Clone, Debug)]
pub struct NamedSource<N> {
    name: N,
    prefix: Option<String>,
}

/// An expression that has to match one whole path segment.
#[derive(Clone, Debug)]
pub struct SegmentPattern {
    written: String,
    whole: Regex,
    /// What every segment that it matches begins with. Most segments do not, and to compare costs a fraction of a search.
    lead: Vec<u8>,
}

/// Why a request that seems to name a room is refused with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AffinityError {
    /// A path segment names a room only after percent-decoding, or where a backslash counts as a slash; a header's name only where
    /// hyphens and underscores count as the same.
    EncodedRoom,
    /// With its dot segments (`..`) resolved, the path names another room.
    DotSegment,
    /// A query, header or cookie value is no room id.
    InvalidRoom,
    /// The room's parameter, header or cookie occurs more than once.
    DuplicateRoom,
    /// Socket.IO's `sid` occurs more than once.
    DuplicateSid,
}

/// All the rules, in order: the first that finds a room wins.
#[derive(Clone, Debug)]
pub struct Affinity(Vec<AffinityRule>);

// === impl Affinity ===

impl Affinity {
    /// The rules in the order in which they are tried.
    pub fn new(rules: Vec<AffinityRule>) -> Self {
        Self(rules)
    }

    /// The rules in the order in which they are tried.
    pub fn rules(&self) -> &[AffinityRule] {
        &self.0
    }

    /// Whether a rule looks at the query parameter of this name.
    pub fn reads_query(&self, name: &str) -> bool {
        self.0.iter().any(|rule| matches!(rule, AffinityRule::Query(source) if source.name == name))
    }

    /// Whether a rule looks at the cookie of this name.
    pub fn reads_cookie(&self, name: &str) -> bool {
        self.0.iter().any(|rule| matches!(rule, AffinityRule::Cookie(source) if source.name == name))
    }

    /// The room this request names, if any, and the index of the rule that found it.
    ///
    /// # Errors
    ///
    /// The first rule whose source is there but cannot be used ends the search.
    pub fn room<'a>(&self, head: &'a Parts) -> Result<Option<(RoomId<'a>, usize)>, AffinityError> {
        for (index, rule) in self.0.iter().enumerate() {
            if let Some(room) = rule.room(head)? {
                return Ok(Some((room, index)));
            }
        }
        Ok(None)
    }
}

// === impl AffinityRule ===

impl AffinityRule {
    fn room<'a>(&self, head: &'a Parts) -> Result<Option<RoomId<'a>>, AffinityError> {
        let path = head.uri.path();
        match self {
            Self::Path(pattern) => pattern.room(path),
            Self::Query(source) => {
                source.room_under(path, |name| query_room(head.uri.query().unwrap_or_default(), name))
            }
            Self::Header(source) => source.room_under(path, |name| header_room(&head.headers, name)),
            Self::Cookie(source) => source.room_under(path, |name| only_room(cookies(head, name))),
        }
    }
}

/// The room in a query string; also where a doubled `sid` is noticed, since a backend and a router that
/// disagree about the session disagree about the pod.
fn query_room<'a>(query: &'a str, name: &str) -> Result<Option<RoomId<'a>>, AffinityError> {
    let mut room: Option<Cow<'a, str>> = None;
    let mut sid_seen = false;
    for (key, value) in query::pairs(query) {
        if key == name {
            if room.replace(value).is_some() {
                return Err(AffinityError::DuplicateRoom);
            }
        } else if key == "sid" && std::mem::replace(&mut sid_seen, true) {
            return Err(AffinityError::DuplicateSid);
        }
    }
    room.map(|value| RoomId::parse(value).ok_or(AffinityError::InvalidRoom)).transpose()
}

/// The room in a header. `X_Room` is another field than `X-Room`, but CGI and what descends from it make one variable of both.
fn header_room<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<RoomId<'a>>, AffinityError> {
    let values = headers.get_all(name).iter();
    let room = only_room(values.map(|value| value.to_str().map(str::trim).unwrap_or_default()))?;
    let has_double = headers.keys().any(|key| key != name && make_one_variable(key.as_str(), name.as_str()));
    match room {
        Some(_) if has_double => Err(AffinityError::DuplicateRoom),
        None if has_double => Err(AffinityError::EncodedRoom),
        room => Ok(room),
    }
}

fn make_one_variable(one: &str, other: &str) -> bool {
    let folded = |byte| if byte == b'-' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().map(folded).eq(other.bytes().map(folded))
}

/// The room in a source that may be repeated: one value, or it is ambiguous.
fn only_room<'a>(mut values: impl Iterator<Item = &'a str>) -> Result<Option<RoomId<'a>>, AffinityError> {
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(AffinityError::DuplicateRoom);
    }
    RoomId::parse(value).map(Some).ok_or(AffinityError::InvalidRoom)
}

impl FromStr for AffinityRule {
    type Err = String;

    /// Reads `path:REGEX`, `query:NAME[@PREFIX]`, `header:NAME[@PREFIX]` or `cookie:NAME[@PREFIX]`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("path", regex)) => SegmentPattern::new(regex).map(Self::Path),
            Some(("query", rest)) => NamedSource::parse(rest, name_as_written).map(Self::Query),
            Some(("cookie", rest)) => NamedSource::parse(rest, cookie_name).map(Self::Cookie),
            Some(("header", rest)) => NamedSource::parse(rest, header_name).map(Self::Header),
            _ => {
                Err("an affinity rule is path:REGEX, query:NAME[@PREFIX], header:NAME[@PREFIX] or cookie:NAME[@PREFIX]"
                    .to_owned())
            }
        }
    }
}

fn name_as_written(name: &str) -> Result<String, String> {
    Ok(name.to_owned())
}

/// RFC 6265 section 4.1.1: a token, as a header's name.
fn cookie_name(name: &str) -> Result<String, String> {
    let is_token = HeaderName::from_str(name).is_ok();
    is_token.then(|| name.to_owned()).ok_or_else(|| format!("{name:?} is not a cookie's name"))
}

fn header_name(written: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_str(written).map_err(|_| format!("{written:?} is not a header name"))?;
    let is_http = [HOST, CONNECTION, UPGRADE, EXPECT, TE, TRAILER, TRANSFER_ENCODING, CONTENT_LENGTH].contains(&name);
    if is_http { Err(format!("{written:?} has a meaning of its own, and never holds a room")) } else { Ok(name) }
}

impl fmt::Display for AffinityRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name, prefix) = match self {
            Self::Path(pattern) => ("path", pattern.written.as_str(), &None),
            Self::Query(source) => ("query", source.name.as_str(), &source.prefix),
            Self::Header(source) => ("header", source.name.as_str(), &source.prefix),
            Self::Cookie(source) => ("cookie", source.name.as_str(), &source.prefix),
        };
        write!(f, "{kind}:{name}")?;
        prefix.as_ref().map_or(Ok(()), |prefix| write!(f, "@{prefix}"))
    }
}

// === impl NamedSource ===

impl<N> NamedSource<N> {
    fn parse(text: &str, name: impl FnOnce(&str) -> Result<N, String>) -> Result<Self, String> {
        let (written, prefix) = match text.split_once('@') {
            Some((written, prefix)) => (written, Some(prefix.to_owned())),
            None => (text, None),
        };
        if written.is_empty() {
            return Err("the name is missing".to_owned());
        }
        if let Some(prefix) = prefix.as_deref().filter(|prefix| !prefix.starts_with('/')) {
            return Err(format!("the prefix {prefix:?} has to begin with a slash"));
        }
        if let Some(prefix) = prefix.as_deref().filter(|prefix| prefix.contains(['?', '#'])) {
            return Err(format!("the prefix {prefix:?} is compared with the path, which ends before ? and #"));
        }
        Ok(Self { name: name(written)?, prefix })
    }

    /// What `find` finds under the name, where this path is one that the rule is about.
    fn room_under<'a>(
        &self,
        path: &str,
        find: impl FnOnce(&N) -> Result<Option<RoomId<'a>>, AffinityError>,
    ) -> Result<Option<RoomId<'a>>, AffinityError> {
        let Some(prefix) = self.prefix.as_deref() else {
            return find(&self.name);
        };
        if is_under(path, prefix) {
            return find(&self.name);
        }
        // A backend that decodes the path, or resolves its dot segments, finds the room where the router would not.
        let hidden = path::readings(path).any(|read| is_under(&read, prefix));
        match hidden.then(|| find(&self.name)) {
            None | Some(Ok(None)) => Ok(None),
            Some(Ok(Some(_)) | Err(_)) => Err(AffinityError::EncodedRoom),
        }
    }
}

/// Whether `path` lies under `prefix`, both undecoded. A prefix that ends in a slash also covers the path
/// without it, as Socket.IO's `addTrailingSlash: false` needs (`/socket.io?EIO=4`).
pub fn is_under(path: &str, prefix: &str) -> bool {
    path.starts_with(prefix) || prefix.strip_suffix('/') == Some(path)
}

// === impl SegmentPattern ===

impl SegmentPattern {
    fn new(written: &str) -> Result<Self, String> {
        if written.is_empty() {
            return Err("the regular expression is missing".to_owned());
        }
        if regex_syntax::parse(written).is_ok_and(|parsed| !may_match_a_room(&parsed)) {
            let why = "it matches no room id: it is compared with one segment of the path, without any slash, and a room id \
                       has A-Z, a-z, 0-9, _ and - only";
            return Err(why.to_owned());
        }
        // Compiled alone first: `a)(b` must not become valid by being wrapped.
        Regex::new(written)
            .and_then(|_| Regex::new(&format!(r"\A(?:{written})\z")))
            .map(|whole| Self { written: written.to_owned(), whole, lead: lead(written) })
            .map_err(|error| one_line(&error))
    }

    fn room<'a>(&self, path: &'a str) -> Result<Option<RoomId<'a>>, AffinityError> {
        let room = self.literal_room(path)?;
        // Dot segments only take rooms away: where there is none, they matter to nobody.
        if let Some(room) = &room
            && climbs(path)
            && path::readings(path).any(|read| self.first_in(&read).as_ref() != Some(room))
        {
            return Err(AffinityError::DotSegment);
        }
        Ok(room)
    }

    fn literal_room<'a>(&self, path: &'a str) -> Result<Option<RoomId<'a>>, AffinityError> {
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            if let Some(room) = self.matches(segment) {
                return Ok(Some(room));
            }
            if segment.contains(['%', '\\']) && self.matches_once_decoded(segment) {
                return Err(AffinityError::EncodedRoom);
            }
        }
        Ok(None)
    }

    fn matches<'a>(&self, segment: &'a str) -> Option<RoomId<'a>> {
        if !segment.as_bytes().starts_with(&self.lead) {
            return None;
        }
        RoomId::parse(segment).filter(|_| self.whole.is_match(segment))
    }

    /// The room that a backend finds which has read the path so.
    fn first_in<'a>(&self, path: &'a str) -> Option<RoomId<'a>> {
        path.split('/').find_map(|segment| self.matches(segment))
    }

    /// A backend that decodes would see a room where the undecoded segment has none. `%2F` may hide one between
    /// slashes, as may a backslash, which URL parsers take for a slash: each decoded piece counts.
    fn matches_once_decoded(&self, segment: &str) -> bool {
        let decoded = percent_decode_str(segment).decode_utf8_lossy();
        decoded.split(['/', '\\']).any(|piece| self.matches(piece).is_some())
    }
}

/// Whether the expression may match a room id, as far as its parts tell: none of them asks for what no id has.
fn may_match_a_room(parsed: &Hir) -> bool {
    let in_ids = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match parsed.kind() {
        HirKind::Empty | HirKind::Look(_) => true,
        HirKind::Literal(literal) => literal.0.iter().all(in_ids),
        HirKind::Class(Class::Unicode(class)) => class.iter().any(|range| {
            (0..=127_u8).filter(in_ids).any(|byte| (range.start()..=range.end()).contains(&char::from(byte)))
        }),
        HirKind::Class(Class::Bytes(class)) => {
            class.iter().any(|range| (range.start()..=range.end()).any(|byte| in_ids(&byte)))
        }
        HirKind::Repetition(repetition) => repetition.min == 0 || may_match_a_room(&repetition.sub),
        HirKind::Capture(capture) => may_match_a_room(&capture.sub),
        HirKind::Concat(parts) => parts.iter().all(may_match_a_room),
        HirKind::Alternation(parts) => parts.iter().any(may_match_a_room),
    }
}

/// What everything begins with that the expression matches, as far as that is easily known.
fn lead(written: &str) -> Vec<u8> {
    let parsed = regex_syntax::parse(written).ok();
    let leads = parsed.map(|parsed| Extractor::new().extract(&parsed));
    leads.and_then(|leads| leads.longest_common_prefix().map(<[u8]>::to_vec)).unwrap_or_default()
}

/// Whether a path may have `..` in it, perhaps encoded. Most have neither a dot nor a percent sign.
fn climbs(path: &str) -> bool {
    path.bytes().any(|byte| matches!(byte, b'.' | b'%'))
        && percent_decode_str(path).decode_utf8_lossy().split(['/', '\\']).any(|segment| segment == "..")
}

fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    format!("not a regular expression: {}", last.trim_start_matches("error: "))
}

#[cfg(test)]
mod tests;
