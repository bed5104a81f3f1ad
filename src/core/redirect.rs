//! The 302 that turns a browser's page load into a page that knows its pod.
//!
//! `Location` is a relative reference built from the template and two validated ids, so that neither the
//! request's path nor its `Host` can steer it off the origin (open redirect, response splitting).

use std::fmt;
use std::str::FromStr;

use http::header::ACCEPT;
use http::request::Parts;
use http::{Method, Request};

use super::address::foreign_placeholder;
use super::affinity::Affinity;
use super::assignment::PodId;
use super::room::RoomId;

/// `--redirect`: the path prefix, and where its page loads go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    prefix: String,
    target: String,
    /// The target without the parameters that would name the pod.
    podless: String,
    /// Whether a room's name may decide that the target lies under the prefix.
    may_lead_back: bool,
}

impl Redirect {
    /// Whether this request for `room` is a browser's page load under the prefix: GET or HEAD, and HTML preferred. A room
    /// whose very name leads back under the prefix (`/room_` to `/{room}`) is not redirected: there would be no end to it.
    pub fn applies_to(&self, head: &Parts, room: &RoomId<'_>) -> bool {
        matches!(head.method, Method::GET | Method::HEAD)
            && head.uri.path().starts_with(&self.prefix)
            && prefers_html(head)
            && !(self.may_lead_back && self.location(room, None).starts_with(&self.prefix))
    }

    /// The relative `Location` for this room. Without a pod, the parameters that would name it are left out.
    pub fn location(&self, room: &RoomId<'_>, pod: Option<&PodId>) -> String {
        match pod {
            Some(pod) => fill(&self.target, room.as_str(), pod.as_str()),
            None => fill(&self.podless, room.as_str(), ""),
        }
    }

    /// Whether a request for where it leads names, by these rules, the room that it was for, or none.
    pub fn agrees_with(&self, affinity: &Affinity) -> bool {
        let room = RoomId::parse("room_that-nobody-writes-into-a-target").expect("letters, digits, - and _");
        let Ok(request) = Request::get(self.location(&room, None)).body(()) else {
            return false;
        };
        let head = request.into_parts().0;
        let named = affinity.room(&head);
        named.is_ok_and(|named| named.is_none_or(|(named, _)| named == room))
    }
}

/// The template with the ids in their places. Every brace in it is one of a placeholder's, so that each second piece is one.
/// Of exactly its length, so that a header takes it as it is.
fn fill(template: &str, room: &str, pod: &str) -> String {
    let value = |(index, piece)| match (index % 2, piece) {
        (1, "room") => room,
        (1, _) => pod,
        (_, text) => text,
    };
    let pieces = || template.split(['{', '}']).enumerate().map(value);
    let mut filled = String::with_capacity(pieces().map(str::len).sum());
    filled.extend(pieces());
    filled
}

/// Drops the query parameters that hold `{pod}`.
fn without_pod(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let kept: Vec<_> = query.split('&').filter(|pair| !pair.contains("{pod}")).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

impl FromStr for Redirect {
    type Err = String;

    /// Reads `PREFIX=TARGET`, for example `/experiment/=/experiment?roomId={room}&pod={pod}`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, target) = text
            .split_once('=')
            .ok_or("write PREFIX=TARGET, for example /experiment/=/experiment?roomId={room}&pod={pod}, or off")?;
        let path = target.split('?').next().unwrap_or_default();
        if !prefix.starts_with('/') || !is_plain(prefix) {
            return Err("the prefix has to be a path that begins with a slash".to_owned());
        }
        if let Some(word) = foreign_placeholder(target, &["{room}", "{pod}"]) {
            return Err(format!("{word} is no placeholder: there are {{room}} and {{pod}}"));
        }
        let example = target.replace("{room}", "room_x").replace("{pod}", "pod-0");
        if !target.starts_with('/') || target.starts_with("//") || !is_plain(&example) {
            return Err(
                "the target has to be a path of this origin: one leading slash, no backslash, space, fragment \
                        or other character that a URL has no place for"
                    .to_owned(),
            );
        }
        if path.split('/').any(is_dots) {
            return Err("the target has a segment of dots, which a browser would resolve".to_owned());
        }
        if !target.contains("{room}") {
            return Err("the target has to contain {room}".to_owned());
        }
        if path.contains("{pod}") {
            return Err("{pod} may stand only in a query parameter: it is left out while a room has no pod".to_owned());
        }
        let podless = without_pod(target);
        let Some((lead, _)) = podless.split_once("{room}") else {
            return Err("{room} stands in a parameter with {pod}, which is left out while a room has no pod".to_owned());
        };
        if path.replace("{room}", "room_x").starts_with(prefix) {
            return Err(format!("the target lies under {prefix} itself: the browser would be redirected for ever"));
        }
        let may_lead_back = prefix.starts_with(lead) || lead.starts_with(prefix);
        Ok(Self { prefix: prefix.to_owned(), target: target.to_owned(), podless, may_lead_back })
    }
}

/// Whether a browser leaves `text` as it is: the characters of a path and a query (RFC 3986 section 3.3 and 3.4).
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=%".contains(&b))
}

/// `.` or `..`, encoded or not.
fn is_dots(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.prefix, self.target)
    }
}

/// Whether `Accept` names `text/html` with a weight above zero that no other named type exceeds (RFC 9110
/// section 12.5.1). A bare `*/*`, as `fetch` and command-line clients send it, is not a page load.
fn prefers_html(head: &Parts) -> bool {
    let mut html = 0;
    let mut other = 0;
    let lines = head.headers.get_all(ACCEPT).iter();
    for range in lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')) {
        let mut parameters = range.split(';').map(str::trim);
        let media_type = parameters.next().unwrap_or_default();
        let weight = parameters
            .find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")))
            .map_or(1000, thousandths);
        let best = if media_type.eq_ignore_ascii_case("text/html") { &mut html } else { &mut other };
        *best = weight.max(*best);
    }
    html > 0 && html >= other
}

/// A quality value (RFC 9110 section 12.4.2) in thousandths; what is not one counts as 0.
fn thousandths(text: &str) -> u16 {
    text.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).map_or(0, |q| (q * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::StatefulSet;
    use http::Request;

    const DEFAULT: &str = "/experiment/=/experiment?roomId={room}&pod={pod}";

    fn head(method: &str, target: &str, accept: &str) -> Parts {
        Request::builder().method(method).uri(target).header("accept", accept).body(()).expect("a head").into_parts().0
    }

    #[test]
    fn the_location_is_relative_and_drops_an_unknown_pod() {
        let redirect: Redirect = DEFAULT.parse().expect("the default");
        let room = RoomId::parse("room_xyz").expect("a room");
        let pod = StatefulSet::parse("backend").expect("a name").nth(1);
        assert_eq!(redirect.location(&room, Some(&pod)), "/experiment?roomId=room_xyz&pod=backend-1");
        assert_eq!(redirect.location(&room, None), "/experiment?roomId=room_xyz");
        let only_path: Redirect = "/e/=/room/{room}?pod={pod}".parse().expect("valid");
        assert_eq!(only_path.location(&room, None), "/room/room_xyz");
        assert_eq!(redirect.to_string(), DEFAULT);
    }

    /// Filled by one pass over the template as by replacing one after the other, and without space to spare.
    #[test]
    fn a_location_is_its_template_with_the_ids() {
        let room = RoomId::parse("pod-room").expect("a room");
        let pod = StatefulSet::parse("room").expect("a name").nth(12);
        for target in [
            "/x?r={room}&p={pod}",
            "/room/{room}pod{room}/x?room={pod}{pod}&pod",
            "/?pod={pod}&x=1&roomId={room}",
            "/{room}?a={pod}",
            "/x?{room}",
        ] {
            let redirect: Redirect = format!("/e/={target}").parse().expect(target);
            let named = redirect.location(&room, Some(&pod));
            assert_eq!(named, target.replace("{room}", room.as_str()).replace("{pod}", pod.as_str()));
            let podless = redirect.location(&room, None);
            assert_eq!(podless, without_pod(target).replace("{room}", room.as_str()));
            assert_eq!([named.capacity(), podless.capacity()], [named.len(), podless.len()]);
        }
    }

    #[test]
    fn only_page_loads_under_the_prefix_are_redirected() {
        let redirect: Redirect = DEFAULT.parse().expect("the default");
        let room = RoomId::parse("room_a").expect("a room");
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (method, target, accept, expected) in [
            ("GET", "/experiment/room_a", browser, true),
            ("HEAD", "/experiment/room_a", browser, true),
            ("POST", "/experiment/room_a", browser, false),
            ("OPTIONS", "/experiment/room_a", browser, false),
            ("GET", "/experiment/room_a", "TEXT/HTML", true),
            ("GET", "/experiment/room_a", "text/html;q=0.9, application/json", false),
            ("GET", "/experiment/room_a", "application/json;q=0.5, text/html;q=0.5", true),
            ("GET", "/experiment/room_a", "text/html;q=0.505, application/json;q=0.506", false),
            ("GET", "/experiment/room_a", "*/*", false),
            ("GET", "/experiment/room_a", "text/*", false),
            ("GET", "/experiment/room_a", "text/html;q=0", false),
            ("GET", "/experiment/room_a", "text/html;level=1;q=0.0", false),
            ("GET", "/experiment/room_a", "application/json", false),
            ("GET", "/experiment/room_a", "", false),
            ("GET", "/api/room/room_a", browser, false),
            ("GET", "/experimental/room_a", browser, false),
        ] {
            let applies = redirect.applies_to(&head(method, target, accept), &room);
            assert_eq!(applies, expected, "{method} {target} {accept}");
        }
    }

    #[test]
    fn a_room_that_leads_back_is_not_redirected() {
        let redirect: Redirect = "/room_1=/{room}?pod={pod}".parse().expect("valid for most rooms");
        let applies = |room: &str| {
            let room = RoomId::parse(room).expect("a room");
            redirect.applies_to(&head("GET", "/room_1/x", "text/html"), &room)
        };
        assert!(applies("room_2") && !applies("room_1") && !applies("room_12"));
        for (setting, by_room) in
            [(DEFAULT, false), ("/room_1=/{room}", true), ("/a/b=/a/{room}", true), ("/a/=/b/{room}", false)]
        {
            let redirect: Redirect = setting.parse().expect(setting);
            assert_eq!(redirect.may_lead_back, by_room, "{setting}");
        }
    }

    #[test]
    fn a_target_that_could_leave_the_origin_or_loop_is_refused() {
        for (text, part) in [
            ("/experiment/", "PREFIX=TARGET"),
            ("experiment/=/e?r={room}", "prefix"),
            ("/e/=//evil.com/?r={room}", "origin"),
            ("/e/=https://evil.com/?r={room}", "origin"),
            ("/e/=/\\evil.com?r={room}", "origin"),
            ("/e/=/x y?r={room}", "origin"),
            ("/e/=/x\"?r={room}", "origin"),
            ("/e/=/x?r={rooms}{room}", "{rooms} is no placeholder"),
            ("/x/=/y?{foo}{room}", "{foo} is no placeholder"),
            ("/e/=/x?r={room}{", "origin"),
            ("/e/=/x/../e/{room}", "dots"),
            ("/e/=/%2E./e/{room}", "dots"),
            ("/e/=/x", "{room}"),
            ("/e/=/x/{pod}?r={room}", "query parameter"),
            ("/e/=/x?r={room}-{pod}", "parameter with {pod}"),
            ("/e/=/e/{room}", "for ever"),
            ("/e/=/e/?r={room}", "for ever"),
        ] {
            let error = text.parse::<Redirect>().expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
