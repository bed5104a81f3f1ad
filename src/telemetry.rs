//! Log lines: JSON or text, to standard output, from a thread of their own.
//!
//! A worker thread must never wait for whoever reads the log, so lines go through a bounded queue; when it is full they
//! are dropped and counted (`pod_router_log_lines_dropped`).

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::LogFormat;

/// What is logged unless `RUST_LOG` says otherwise: fred's own retries are its business, their outcome is ours.
const DEFAULT_FILTER: &str = "info,fred=off";

/// Lines that may wait for the writing thread.
const QUEUE: usize = 16 * 1024;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging. The guard writes out what is queued when it is dropped.
pub fn start(format: LogFormat) -> WorkerGuard {
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(std::io::stdout());
    // A second start in one process would keep the first one's counter and subscriber.
    let _ = DROPPED.set(writer.error_counter());
    // The configuration has refused what cannot be read; an empty variable counts as unset.
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).try_from_env();
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(BoxMakeWriter::new(writer));
    let _ = match format {
        LogFormat::Json => tracing::subscriber::set_global_default(
            subscriber.json().flatten_event(true).with_current_span(false).finish(),
        ),
        LogFormat::Text => {
            let coloured = std::io::stdout().is_terminal();
            tracing::subscriber::set_global_default(subscriber.with_ansi(coloured).finish())
        }
    };
    guard
}

/// Lines dropped so far because the log's reader was too slow.
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}
