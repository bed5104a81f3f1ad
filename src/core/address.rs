//! Where pods are: host and port, and the template that makes one from a pod's name.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use super::assignment::PodId;

/// A host, by name or by literal address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A DNS name, or an IP address without brackets.
    pub host: Arc<str>,
    /// The TCP port, never 0.
    pub port: u16,
}

/// `--pod-address`: where a pod is, with `{pod}` and `{namespace}` to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressTemplate {
    /// What was written, with `{namespace}` already filled in.
    text: String,
}

// === impl HostPort ===

impl HostPort {
    /// The literal address, where the host is one and needs no resolution.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for HostPort {
    type Err = String;

    /// Reads `host:port`, `1.2.3.4:port` or `[::1]:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "an address is host:port, for example 10.0.0.1:3000 or backend:3000".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0);
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok().then_some(v6),
            None => is_host_name(host).then_some(host),
        };
        match (host, port) {
            (Some(host), Some(port)) => Ok(Self { host: host.into(), port }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The first `{word}` in a template that is none of those that are filled in.
pub(super) fn foreign_placeholder<'a>(template: &'a str, known: &[&str]) -> Option<&'a str> {
    let starts = template.match_indices('{').map(|(start, _)| &template[start..]);
    let words = starts.filter_map(|rest| Some(&rest[..=rest.find('}')?]));
    words.into_iter().find(|word| !known.contains(word))
}

/// A name that DNS can carry: labels of letters, digits, hyphens and underscores (RFC 1123, and the
/// underscore that compose service names use).
fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

// === impl AddressTemplate ===

impl AddressTemplate {
    /// A template from its text and the namespace.
    ///
    /// # Errors
    ///
    /// Says what is wrong: no `{pod}`, so that all rooms would go to one address, or no `host:port`.
    pub fn new(text: &str, namespace: &str) -> Result<Self, String> {
        if !text.contains("{pod}") {
            return Err("the address has to contain {pod}".to_owned());
        }
        if let Some(word) = foreign_placeholder(text, &["{pod}", "{namespace}"]) {
            return Err(format!("{word} is no placeholder: there are {{pod}} and {{namespace}}"));
        }
        let text = text.replace("{namespace}", namespace);
        text.replace("{pod}", "pod-0").parse::<HostPort>()?;
        Ok(Self { text })
    }

    /// The address of this pod.
    pub fn of(&self, pod: &PodId) -> HostPort {
        self.text
            .replace("{pod}", pod.as_str())
            .parse()
            .expect("checked with a pod's name when the template was made; pod names are DNS labels")
    }
}

impl fmt::Display for AddressTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::assignment::StatefulSet;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["10.0.0.1:3000", "backend-service:80", "a_b.c.:1", "[::1]:65535"] {
            assert_eq!(good.parse::<HostPort>().map(|a| a.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            ":1",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:x",
            "::1:80",
            "[a]:1",
            "a b:1",
            "http://a:1",
            "a/b:1",
            "u@h:1",
            "a..b:1",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_template_names_each_pod() {
        let template = AddressTemplate::new("{pod}.backend.{namespace}.svc.cluster.local:3000", "live").expect("valid");
        let pod = StatefulSet::parse("backend").expect("valid").nth(12);
        assert_eq!(template.of(&pod).to_string(), "backend-12.backend.live.svc.cluster.local:3000");
        for bad in ["backend:3000", "{pod}", "{pod}:x", "{pod} :1", "{pods}:1"] {
            assert!(AddressTemplate::new(bad, "default").is_err(), "{bad}");
        }
        for (bad, word) in [("{pod}.{foo}:80", "{foo}"), ("{pod}.{Namespace}.x:80", "{Namespace}"), ("{pod}{}:1", "{}")]
        {
            let error = AddressTemplate::new(bad, "default").expect_err(bad);
            assert!(
                error.starts_with(&format!("{word} is no placeholder")) && error.contains("{namespace}"),
                "{error}"
            );
        }
    }
}
