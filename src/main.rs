//! Parses, starts logging, builds the runtime, runs, and maps the outcome to an exit status.

use std::process::ExitCode;

use pod_router::app::{self, App};
use pod_router::config::{self, Command, Config, DirectoryKind};
use pod_router::directory::Directory;
use pod_router::directory::memory::MemoryDirectory;
use pod_router::directory::redis::RedisDirectory;
use pod_router::telemetry;

/// A start-up failure: an address in use, no threads left.
const FAILED: u8 = 1;

/// Bad configuration (`EX_USAGE` of sysexits.h).
const WRONG: u8 = 64;

fn main() -> ExitCode {
    let command = match config::from_process() {
        Ok(command) => command,
        Err(exit) => return exit.report(),
    };
    let runtime = match app::local_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error.to_string()),
    };
    runtime.block_on(async {
        match command {
            Command::Serve(config) => serve(*config).await,
            Command::Dev(_) | Command::Check(_) | Command::Explain(_) => fail(FAILED, "not merged yet"),
        }
    })
}

async fn serve(config: Config) -> ExitCode {
    match &config.directory.kind {
        DirectoryKind::Memory => run(config, MemoryDirectory::default()).await,
        DirectoryKind::Redis(redis) => {
            let statefulset = config.routing.statefulset.clone();
            match RedisDirectory::new(redis, config.directory.timeout, statefulset) {
                Ok(directory) => {
                    directory.start();
                    run(config, directory).await
                }
                Err(error) => fail(WRONG, &error),
            }
        }
    }
}

async fn run<D: Directory>(config: Config, directory: D) -> ExitCode {
    let app = match App::bind(config.clone()) {
        Ok(app) => app,
        Err(error) => return fail(FAILED, &error),
    };
    let _logging = telemetry::start(config.log_format);
    let stop = match app::stop_signals() {
        Ok(stop) => stop,
        Err(error) => return fail(FAILED, &error.to_string()),
    };
    match app.run(directory, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &error.to_string()),
    }
}

fn fail(status: u8, error: &str) -> ExitCode {
    eprintln!("pod-router: {error}");
    ExitCode::from(status)
}
