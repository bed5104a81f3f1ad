//! `--allowed-origins`: the web pages whose scripts may open a WebSocket.
//!
//! A browser opens a WebSocket to anywhere for any page, cookies included, and asks nobody (CORS does not cover it); all
//! it does is say truthfully in `Origin` which page that is (RFC 6455 section 10.2). Who is no browser may say anything
//! there or nothing, and has no cookies that are not its own: a handshake without `Origin` is none that this guards
//! against.

use std::fmt;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue, Uri};

/// The origins that are allowed, as browsers write them: lower case, no default port, no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Origins from a list with commas.
    ///
    /// # Errors
    ///
    /// Says which is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.split(',').map(|item| origin(item.trim())).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a handshake with these fields may go on.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(ORIGIN).iter().map(HeaderValue::as_bytes);
        match (lines.next(), lines.next()) {
            (None, _) => true,
            (Some(named), None) => self.0.iter().any(|allowed| allowed.as_bytes() == named),
            (Some(_), Some(_)) => false,
        }
    }
}

/// RFC 6454 section 6.2: the serialisation that is compared with what browsers send.
fn origin(text: &str) -> Result<String, String> {
    let wrong = || format!("'{text}' is no origin such as https://app.example or http://localhost:8080");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("http" | "https")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    // `Uri` makes a path of nothing into `/`.
    let bare = uri.path() == "/" && uri.query().is_none() && !text.ends_with('/');
    let default_port = if scheme == "https" { 443 } else { 80 };
    let rest = authority.as_str().strip_prefix(authority.host());
    let port = match rest.and_then(|rest| rest.strip_prefix(':')) {
        Some(port) => Some(port.parse::<u16>().map_err(|_| wrong())?),
        None if rest == Some("") => None,
        None => return Err(wrong()),
    };
    if !bare || authority.host().is_empty() {
        return Err(wrong());
    }
    if authority.host().contains('*') {
        return Err(format!("'{text}' is a pattern: each origin has to be named whole"));
    }
    let host = authority.host().to_ascii_lowercase();
    Ok(match port.filter(|port| *port != default_port) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(list: &str, origins: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(ORIGIN, HeaderValue::from_static(origin));
        }
        Origins::parse(list).expect("origins").allow(&headers)
    }

    #[test]
    fn an_origin_is_compared_whole() {
        let list = "https://app.example, HTTP://LocalHost:8080,https://[::1]:9";
        for good in [&["https://app.example"][..], &["http://localhost:8080"], &["https://[::1]:9"], &[]] {
            assert!(allows(list, good), "{good:?}");
        }
        for bad in [
            &["http://app.example"][..],
            &["https://app.example:8443"],
            &["https://app.example.evil"],
            &["https://evil/https://app.example"],
            &["https://xapp.example"],
            &["https://app.example/"],
            &["http://localhost"],
            &["null"],
            &[""],
            &["https://app.example", "https://app.example"],
            &["https://app.example", "https://evil"],
        ] {
            assert!(!allows(list, bad), "{bad:?}");
        }
    }

    #[test]
    fn what_browsers_leave_out_may_be_written() {
        assert_eq!(
            Origins::parse("https://a:443,http://b:80,http://c:443").map(|list| list.to_string()).as_deref(),
            Ok("https://a,http://b,http://c:443")
        );
        for bad in [
            "",
            "a",
            "a:80",
            "ws://a",
            "https://a/",
            "https://a/x",
            "https://u@a",
            "https://a:x",
            "https://*.a b",
            "https://*.a",
            "*",
            "null",
            "https://a,",
            "https://",
        ] {
            assert!(Origins::parse(bad).is_err(), "{bad}");
        }
    }
}
