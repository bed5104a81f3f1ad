//! Log lines: JSON or text, to standard output, from a thread of their own.
//!
//! A worker thread must never wait for whoever reads the log, so lines go through a bounded queue; when it is full they
//! are dropped and counted (`pod_router_log_lines_dropped`). The writing thread takes all that are there and writes them
//! together, whole lines only; it holds none back while it waits for the next.

use std::cell::Cell;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::LogFormat;

/// What is logged unless `RUST_LOG` says otherwise: fred's own retries are its business, their outcome is ours.
const DEFAULT_FILTER: &str = "info,fred=off";

/// Lines that may wait for the writing thread.
const QUEUE: usize = 16 * 1024;

/// Bytes written at a time, but for a line that is longer. As many as a pipe takes undivided (`PIPE_BUF`, pipe(7)): in one
/// that others write to as well, standard error for example, no line is torn.
const TOGETHER: usize = 4096;

/// Between two lines about the same trouble, which may come by the thousand.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// When the log said something last.
#[derive(Debug, Default)]
pub struct Warned(Cell<Option<Instant>>);

impl Warned {
    /// Whether it is time to say it, which is then taken for said.
    pub fn is_due(&self) -> bool {
        let now = Instant::now();
        let due = self.0.get().is_none_or(|last| now - last >= WARNING_PAUSE);
        if due {
            self.0.set(Some(now));
        }
        due
    }
}

/// Starts logging. The guard writes out what is queued when it is dropped.
pub fn start(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = queue_to(io::stdout());
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
            let coloured = io::stdout().is_terminal();
            tracing::subscriber::set_global_default(subscriber.with_ansi(coloured).finish())
        }
    };
    guard
}

/// A queue of lines, and the thread that writes them to `output`: in one piece what has come in the meantime, and at once
/// when nothing more is waiting or the guard is dropped, because that is when the thread flushes.
fn queue_to(output: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    let together = BufWriter::with_capacity(TOGETHER, output);
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).finish(together)
}

/// Lines dropped so far because the log's reader was too slow.
pub fn dropped_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    #[test]
    fn the_same_trouble_is_told_once_in_a_while() {
        let warned = Warned::default();
        assert_eq!([warned.is_due(), warned.is_due()], [true, false]);
        warned.0.set(Instant::now().checked_sub(WARNING_PAUSE));
        assert_eq!([warned.is_due(), warned.is_due()], [true, false]);
    }

    /// Hands on each write, and takes its time over it: until somebody says that it is done.
    struct Slow {
        written: Sender<String>,
        done: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Neither fails while the test goes on; after it, nobody counts.
            let _ = self.written.send(String::from_utf8_lossy(bytes).into_owned());
            let _ = self.done.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_comes_during_a_write_is_written_together_and_no_line_is_divided_or_held_back() {
        let ((written, writes), (finish, done)) = (channel(), channel());
        let (mut queue, _guard) = queue_to(Slow { written, done });
        let next = || writes.recv_timeout(Duration::from_secs(20)).expect("no line is held back");
        let line = |number: usize| format!("{number:0>99}\n");

        queue.write_all(line(0).as_bytes()).expect("there is space");
        assert_eq!(next(), line(0), "nobody waits for more lines");
        for number in 1..=100 {
            queue.write_all(line(number).as_bytes()).expect("there is space");
        }
        for numbers in [1..=40, 41..=80, 81..=100] {
            finish.send(()).expect("the thread goes on");
            assert_eq!(next(), numbers.map(line).collect::<String>());
        }
        finish.send(()).expect("the thread goes on");
        let long = format!("{}\n", "x".repeat(2 * TOGETHER));
        queue.write_all(long.as_bytes()).expect("there is space");
        assert_eq!(next(), long);
        drop(finish);
    }
}
