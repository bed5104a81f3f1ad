//! `explain`: the routing of one request, put into words. It decides nothing: the affinity rules, the directory and
//! [`decision::plan`] do, exactly as they do when the router serves.

use http::Uri;
use http::request::Parts;
use serde::Serialize;

use crate::backends::Signer;
use crate::config::{Config, DirectoryKind, Question, Source};
use crate::core::affinity::{Affinity, AffinityError};
use crate::core::assignment::{Answer, Assignment, Resolution};
use crate::core::decision::{self, OnUnassigned, Plan, RoomRefusal};
use crate::core::headers::cookies;
use crate::core::redirect::Redirect;
use crate::core::room::RoomId;
use crate::core::session::{Session, pod_in_sid, session};
use crate::directory::memory::now_ms;
use crate::directory::{Directory, DirectoryError};
use crate::proxy::Reject;

/// Where a request would go, and why. The field names are what `--json` promises.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    /// The target that was asked about, its secrets masked.
    target: String,
    /// The affinity rule that found the room.
    rule: Option<String>,
    room: Option<String>,
    /// The room's key in Redis.
    key: Option<String>,
    /// What the directory says: `assigned`, `unassigned`, `unusable: <reason>: <sentence>` or the reason it did not answer.
    directory: Option<String>,
    pod: Option<String>,
    epoch: Option<u64>,
    /// How long ago the assignment was made, in milliseconds.
    age_ms: Option<u64>,
    /// `redirect`, `pod`, `default-backend`, `assign` or `reject`.
    decision: &'static str,
    /// Where a redirect leads.
    location: Option<String>,
    /// What the request's `sid` says of its pod, where there is no room, and whether that is believed.
    session: Option<String>,
    /// What the request's affinity cookie says of its pod, where there is no room, and whether that is believed.
    cookie: Option<String>,
    /// The addresses that the request could be sent to.
    addresses: Vec<String>,
    /// The status of the router's own answer.
    status: Option<u16>,
    /// The code of the router's own answer.
    error: Option<&'static str>,
    /// The decision as a sentence.
    because: String,
}

/// Parameters of Engine.IO that are no secrets and say what the request is.
const ENGINE_IO: [&str; 2] = ["EIO", "transport"];

/// Whether the directory would be asked.
pub(super) fn names_a_room(question: &Question) -> bool {
    matches!(question.config.routing.affinity.room(&question.head), Ok(Some(_)))
}

/// Explains one request against the directory as it is now.
pub(super) async fn explain<D: Directory>(question: &Question, directory: &D) -> Explanation {
    let (config, head) = (&question.config, &question.head);
    let routing = &config.routing;
    let mut told = Explanation { target: echo(&head.uri, &routing.affinity), ..Explanation::default() };
    let found = match routing.affinity.room(head) {
        Ok(found) => found,
        Err(error) => return told.ambiguous(error),
    };
    let Some((room, rule)) = found else {
        told.default_backend(config, head.uri.path(), "no affinity rule finds a room in it");
        match session(head, false) {
            Ok(Session::Sid(sid)) => told.session = Some(of_sid(config, head.uri.path(), &sid)),
            Ok(Session::Handshake | Session::None) => {}
            Err(error) => return told.ambiguous(error),
        }
        told.cookie = of_cookie(config, head);
        return told;
    };
    told.rule = routing.affinity.rules().get(rule).map(ToString::to_string);
    told.room = Some(room.to_string());
    if let DirectoryKind::Redis(redis) = &config.directory.kind {
        told.key = Some(redis.room_key.key(&room));
    }
    let answer = directory.lookup(&room).await;
    told.note_answer(&answer);
    let resolution = answer.map_or(Resolution::Unknown, Resolution::Fresh);
    let redirect = routing.redirect.as_ref().filter(|redirect| redirect.applies_to(head, &room));
    let plan = decision::plan(redirect.is_some(), resolution, routing.on_unassigned);
    told.note_plan(config, head.uri.path(), &room, redirect, plan);
    told
}

/// The target as it may stand in a ticket or a chat: values of the query that decide nothing here are masked, since `sid`s
/// and tokens are among them.
fn echo(target: &Uri, affinity: &Affinity) -> String {
    let shown = |name: &str| affinity.reads_query(name) || ENGINE_IO.contains(&name);
    let masked = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if shown(name) => pair.to_owned(),
        Some((name, _)) => format!("{name}=***"),
        None => "***".to_owned(),
    };
    let query = target.query().map(|query| query.split('&').map(masked).collect::<Vec<_>>().join("&"));
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let origin = target.host().zip(target.scheme()).map(|(host, scheme)| {
        let port = target.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{host}{port}")
    });
    format!("{}{}{query}", origin.unwrap_or_default(), target.path())
}

/// What a `sid` says, as far as that can be told without asking for the backend's pods.
fn of_sid(config: &Config, path: &str, sid: &str) -> String {
    let backend = &config.backends.backends[config.backends.for_path(path)];
    if !config.backends.session.sid {
        return format!("the sid is not looked at (--session-affinity): {}", else_decides(config));
    }
    let Some(pod) = pod_in_sid(sid) else {
        return format!("the sid names no pod (POD~…): {}", else_decides(config));
    };
    let is_called_so = |source: &Source| match source {
        Source::Host(address, _) => address.to_string() == pod || address.host.split('.').next() == Some(pod),
        Source::Srv(_) | Source::Heartbeats => false,
    };
    let is_pod = config.routing.statefulset.pod(pod).is_some();
    let is_listed = backend.sources.iter().any(is_called_so);
    match (is_pod && backend.prefix.is_empty(), is_listed) {
        (_, true) => format!("the sid names {pod}, which is believed: the backend lists it"),
        (true, _) => {
            format!("the sid names {pod}, a pod of --statefulset, which is believed: it is dialled, listed or not")
        }
        (false, false) if is_pod => {
            let otherwise = else_decides(config);
            format!(
                "the sid names {pod}, a pod of --statefulset, which is believed only if the backend lists it, by that \
                 name or by an address that the name leads to, or lists another one of them; else {otherwise}"
            )
        }
        (false, false) => {
            let otherwise = else_decides(config);
            format!(
                "the sid names {pod}, which is believed only if DNS lists a pod of that name here; else {otherwise}"
            )
        }
    }
}

/// What decides for a session's request whose `sid` does not, as `Balancer::bound` goes on.
fn else_decides(config: &Config) -> &'static str {
    let affinity = &config.backends.session;
    match (affinity.cookie.is_some(), affinity.client_ip) {
        (true, true) => "the cookie or the client's address decides",
        (false, true) => "the client's address decides",
        (true, false) => "the cookie decides; without one it is 400 session-unknown, but where there is only one pod",
        (false, false) if affinity.sid => {
            "nothing else says whose it is: 400 session-unknown, but where there is only one pod (set generateId: README)"
        }
        (false, false) => "--balance decides",
    }
}

/// What the affinity cookie says, as far as that can be told without asking for the backend's pods; `None` without one.
fn of_cookie(config: &Config, head: &Parts) -> Option<String> {
    let cookie = config.backends.session.cookie.as_ref()?;
    let backend = &config.backends.backends[config.backends.for_path(head.uri.path())];
    let signer = Signer::new(cookie, &config.routing);
    let written = |value: &str| {
        let hosts = backend.sources.iter().filter_map(|source| match source {
            Source::Host(address, _) => Some(address.to_string()),
            Source::Srv(_) | Source::Heartbeats => None,
        });
        hosts.into_iter().find(|origin| signer.value(&backend.prefix, origin) == value)
    };
    let values: Vec<_> = cookies(head, &cookie.name).collect();
    let first = values.first()?;
    let is = format!("the cookie {} is", cookie.name);
    if let Some(pod) = values.iter().find_map(|value| signer.pod(&backend.prefix, value)) {
        let asked = match backend.prefix.as_str() {
            "" => "which is asked, listed or not",
            _ => "which is asked if the backend lists it, or another pod of --statefulset",
        };
        return Some(format!("{is} signed for {pod}, {asked}, unless a sid names its pod"));
    }
    Some(match values.iter().find_map(|value| written(value)) {
        Some(address) => format!("{is} signed for {address}, which the backend lists, unless a sid names its pod"),
        None if Signer::has_name(first) => {
            format!("{is} not signed with --affinity-key for this backend: it counts as none, and is replaced")
        }
        None => {
            format!("{is} of a pod that goes by its address, if the backend lists one with it; else it counts as none")
        }
    })
}

impl Explanation {
    fn ambiguous(mut self, error: AffinityError) -> Self {
        self.reject(Reject::Affinity(error));
        self
    }

    fn reject(&mut self, reject: Reject) {
        self.decision = "reject";
        self.status = Some(reject.status().as_u16());
        self.error = Some(reject.code());
        self.because = reject.message().to_owned();
    }

    fn default_backend(&mut self, config: &Config, path: &str, why: &str) {
        self.decision = "default-backend";
        let backend = &config.backends.backends[config.backends.for_path(path)];
        self.addresses = backend.sources.iter().map(ToString::to_string).collect();
        let set = if backend.prefix.is_empty() { "the default backend" } else { "the route's backend" };
        self.because = format!("{why}: a pod of {set}, its session's or by {}", backend.policy);
    }

    fn note_answer(&mut self, answer: &Result<Answer, DirectoryError>) {
        self.directory = Some(match answer {
            Ok(Answer::Assigned(assignment)) => {
                self.note_assignment(assignment);
                "assigned".to_owned()
            }
            Ok(Answer::Unassigned) => "unassigned".to_owned(),
            Ok(Answer::Unusable(why)) => format!("unusable: {}: {}", why.as_str(), why.sentence()),
            Err(error) => error.to_string(),
        });
    }

    fn note_assignment(&mut self, assignment: &Assignment) {
        self.pod = Some(assignment.pod.to_string());
        self.epoch = Some(assignment.epoch.0);
        self.age_ms = Some(now_ms().saturating_sub(assignment.epoch.0));
    }

    fn note_plan(&mut self, config: &Config, path: &str, room: &RoomId<'_>, redirect: Option<&Redirect>, plan: Plan) {
        match plan {
            Plan::Redirect(pod) => {
                self.decision = "redirect";
                self.status = Some(302);
                self.location = redirect.map(|redirect| redirect.location(room, pod.as_ref()));
                self.because = "a browser's page load under the --redirect prefix".to_owned();
            }
            Plan::Forward(assignment) => {
                self.decision = "pod";
                self.addresses = vec![config.routing.address_of(&assignment.pod).to_string()];
                self.because = format!(
                    "{} owns the room, says the directory now; a running router may go by its cache for up to {} \
                     (--cache-ttl), and follows no epoch lower than one it remembers",
                    assignment.pod,
                    humantime::format_duration(config.directory.ttl)
                );
            }
            Plan::DefaultBackend => {
                debug_assert_eq!(config.routing.on_unassigned, OnUnassigned::DefaultBackend);
                self.default_backend(config, path, "the room has no pod, and --on-unassigned is default-backend");
            }
            Plan::Place => {
                self.decision = "assign";
                self.because = "the room has no pod: one would be chosen by the heartbeats and claimed".to_owned();
            }
            Plan::Refuse(refusal) => {
                self.reject(Reject::Room(refusal));
                if refusal == RoomRefusal::DirectoryUnavailable {
                    self.because.push_str(" (A router that has the room in its cache goes on using it.)");
                }
            }
        }
    }

    /// One JSON object and a line feed.
    pub(super) fn json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a struct of strings and numbers always serialises");
        text.push('\n');
        text
    }

    /// For a person: a line for everything that is known.
    pub(super) fn text(&self) -> String {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let lines = [
            ("target", Some(self.target.clone())),
            ("rule", self.rule.clone()),
            ("room", self.room.clone()),
            ("key", self.key.clone()),
            ("directory", self.directory.clone()),
            ("pod", self.pod.clone()),
            ("epoch", number(self.epoch)),
            ("assigned", self.age_ms.map(ago)),
            ("decision", Some(self.decision.to_owned())),
            ("location", self.location.clone()),
            ("session", self.session.clone()),
            ("cookie", self.cookie.clone()),
            ("address", (!self.addresses.is_empty()).then(|| self.addresses.join(", "))),
            ("status", self.status.map(|status| status.to_string())),
            ("error", self.error.map(ToOwned::to_owned)),
            ("because", Some(self.because.clone())),
        ];
        let known = lines.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name:<10} {value}\n")));
        known.collect()
    }
}

fn ago(milliseconds: u64) -> String {
    let whole = std::time::Duration::from_secs(milliseconds / 1000);
    format!("{} ago", humantime::format_duration(whole))
}
