//! What `benches/run` and `benches/soak` reckon from measurements, and refuse. Nothing is measured here.

use std::process::Command;

#[test]
fn reports_verdicts_and_options_are_right() {
    let output = Command::new("python3")
        .args(["-m", "unittest", "--quiet", "benches.compare.test_pure"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
