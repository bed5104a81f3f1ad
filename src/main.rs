//! Parses, starts logging, builds the runtime, runs, and maps the outcome to an exit status.

#![expect(clippy::print_stdout, reason = "dev says where to look")]

mod heap;

use std::process::ExitCode;

use pod_router::app::{self, App};
use pod_router::config::{self, Command, Config, DevArgs, DirectoryKind, LogFormat};
use pod_router::directory::Directory;
use pod_router::directory::memory::MemoryDirectory;
use pod_router::directory::redis::RedisDirectory;
use pod_router::{cli, dev, telemetry};

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
    let status = runtime.block_on(async {
        match command {
            Command::Serve(config) => serve(*config).await,
            Command::Dev(args) => demonstrate(args).await,
            Command::Check(config) => cli::check(&config).await,
            Command::Explain(question) => cli::explain(&question).await,
            Command::Health(check) => cli::health(check).await,
        }
    });
    // Dropped, it would wait for the system's resolver, which knows no deadline of ours.
    runtime.shutdown_background();
    status
}

async fn serve(config: Config) -> ExitCode {
    match &config.directory.kind {
        DirectoryKind::Memory => bind_and_run(config, MemoryDirectory::default()).await,
        DirectoryKind::Redis(redis) => {
            let statefulset = config.routing.statefulset.clone();
            match RedisDirectory::new(redis, config.directory.timeout, statefulset) {
                Ok(directory) => {
                    directory.start();
                    bind_and_run(config, directory).await
                }
                Err(error) => fail(WRONG, &error),
            }
        }
    }
}

async fn demonstrate(args: DevArgs) -> ExitCode {
    let demo = match dev::start(args.admin_listen.to_string()).await {
        Ok(demo) => demo,
        Err(error) => return fail(FAILED, &format!("the demo pods could not start: {error}")),
    };
    let app = match App::bind(dev::config(&demo, &args)) {
        Ok(app) => app,
        Err(error) => return fail(FAILED, &error),
    };
    demo.set_admin(app.admin_address);
    let urls = dev::urls(app.address, app.admin_address);
    run(app, args.log_format, demo.directory, || print!("{urls}")).await
}

async fn bind_and_run<D: Directory>(config: Config, directory: D) -> ExitCode {
    let log_format = config.log_format;
    match App::bind(config) {
        Ok(app) => run(app, log_format, directory, || ()).await,
        Err(error) => fail(FAILED, &error),
    }
}

/// Runs until a signal has ended it. `announce` is called once a signal would be heard.
async fn run<D: Directory>(app: App, log_format: LogFormat, directory: D, announce: impl FnOnce()) -> ExitCode {
    let _logging = telemetry::start(log_format);
    let stop = match app::stop_signals() {
        Ok(stop) => stop,
        Err(error) => return fail(FAILED, &error.to_string()),
    };
    announce();
    match app.run(directory, heap::give_back, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, &error.to_string()),
    }
}

fn fail(status: u8, error: &str) -> ExitCode {
    eprintln!("pod-router: {error}");
    ExitCode::from(status)
}
