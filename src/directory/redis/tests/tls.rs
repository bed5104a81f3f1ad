//! `rediss://` against a server whose certificate a private authority has signed.
//!
//! fred trusts what the system trusts, and finds it through `SSL_CERT_FILE`, which a process reads for itself:
//! so the second test is run by the first one, in a process of its own.

use std::path::Path;
use std::process::Command;

use super::*;

/// The URL for the test inside.
const URL: &str = "POD_ROUTER_TEST_TLS_URL";

/// An authority and a certificate of it for `localhost`: `ca.pem`, `cert.pem`, `key.pem`.
fn make_certificates(dir: &Path) {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let leaf = "-addext subjectAltName=DNS:localhost -addext basicConstraints=CA:FALSE -CA ca.pem -CAkey ca.key";
    for (name, files) in [("ca", "-keyout ca.key -out ca.pem"), ("localhost", "-keyout key.pem -out cert.pem")] {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(dir).args(["req", "-x509", "-subj", &format!("/CN={name}")]).args(key);
        openssl.args(files.split(' '));
        if name != "ca" {
            openssl.args(leaf.split(' '));
        }
        let output = openssl.output().expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_certificate_is_checked_against_the_systems_authorities() {
    let dir = std::env::temp_dir().join(format!("pod-router-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    make_certificates(&dir);
    let file = |name: &str| dir.join(name).to_str().expect("a plain path").to_owned();
    let port = free_port().to_string();
    let [cert, key] = [file("cert.pem"), file("key.pem")];
    let tls = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-cert-file", &cert, "--tls-key-file", &key];
    let redis = Server::start(&tls);
    redis.set("room:room_a:pod", r#"{"podId":"backend-1","assignedAt":7}"#);

    // The name in the certificate, then another name of the same server.
    for (host, trusted) in [("localhost", true), ("127.0.0.1", false)] {
        let output = Command::new(std::env::current_exe().expect("a test binary"))
            .args(["--ignored", "--exact", concat!("directory::redis::tests::tls::", "the_test_inside")])
            .env("SSL_CERT_FILE", file("ca.pem"))
            .env(URL, format!("rediss://{host}:{port}"))
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("running 1 test"), "{said}");
        assert_eq!(output.status.success(), trusted, "{said}");
        assert!(trusted || said.contains("NotValidForName"), "{said}");
    }
    let _ = std::fs::remove_dir_all(&dir);
}

#[tokio::test]
#[ignore = "run by the test above, with its environment"]
async fn the_test_inside() {
    let directory = started(&std::env::var(URL).expect("the test above sets it"));
    let mut last = String::new();
    let answered = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            match directory.lookup(&room("room_a")).await {
                Ok(answer) => break answer,
                Err(why) => last = why.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(answered.await.map_err(|_| last), Ok(assigned(1, 7)));
}
