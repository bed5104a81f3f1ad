//! Chromium as the client, in a page of another origin: CORS with credentials, cookies, `EventSource`, WebSocket.

use serde_json::json;

use super::Behind;
use super::ingress::Ingress;
use crate::support::{finish, node};

/// Straight to the pod, through the router, and through nginx and the router: three times the same.
#[test]
fn a_browser_sees_no_router() {
    let ingress = Ingress::nginx("httppod.mjs");
    let Behind { pod, router, .. } = ingress.behind();
    let urls = [pod.addr(), router.addr(), ingress.routed()].map(|addr| format!("http://{addr}")).join(",");
    let seen = finish(node("the browser", &["browser.mjs", "--urls", &urls, "--deadline", "120"]));
    let [straight, routed, behind_nginx] = seen.as_array().expect("an outcome for each").as_slice() else {
        panic!("not three outcomes: {seen}");
    };
    assert_eq!(straight["cors"]["preflights"], 1, "{straight}");
    assert_eq!(straight["cors"]["allowed"], json!([200, "cors", "hello", "length"]));
    assert_eq!(straight["cors"]["otherHeader"], "TypeError");
    assert_eq!(straight["cookies"]["after"]["cookie"], "theme=dark; session=s3cr3t");
    assert_eq!(straight["reconnect"]["received"][3], json!(["after 3", "4"]));
    assert_eq!(straight["events"][2], json!(["event 2", "2"]));
    assert_eq!(straight["websocket"]["protocol"], "echo.v2");
    assert_eq!(straight["websocket"]["extensions"], "permessage-deflate");
    assert_eq!(straight["websocket"]["closedByPod"], json!([4001, "bye", true]));
    assert_eq!(straight["websocket"]["closedByPage"], json!([4002, "done", true]));
    assert_eq!((&straight["websocket"]["text"], &straight["websocket"]["binary"]), (&json!(true), &json!(true)));
    assert_eq!(routed, straight);
    assert_eq!(behind_nginx, straight);
}
