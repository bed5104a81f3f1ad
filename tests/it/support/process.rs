//! A child process that does not outlive its test.

use std::io::Read;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use super::wait_for;

/// A child, killed and reaped on drop.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts `program`. `setpriv` (util-linux) has the kernel kill the child should the starting thread end
    /// without a drop, which a test run that is killed does; it then becomes the program, under the same pid.
    pub(crate) fn start(name: &'static str, program: &str, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        configure(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { child, name }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn take_stdout(&mut self) -> impl Read + Send + 'static {
        self.child.stdout.take().expect("stdout is piped, and taken once")
    }

    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("stdin is piped, and taken once")
    }

    pub(crate) fn take_stderr(&mut self) -> impl Read + Send + 'static {
        self.child.stderr.take().expect("stderr is piped, and taken once")
    }

    /// Sends a signal by its name: `TERM`, `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        // The shell's own `kill`: the program is in a package that small systems lack.
        let sent = Command::new("sh").args(["-c", &format!("kill -s {signal} {}", self.pid())]).status();
        assert!(sent.is_ok_and(|status| status.success()), "{} cannot be sent SIG{signal}", self.name);
    }

    /// How it ended, once it has.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let what = format!("the exit of {}", self.name);
        wait_for(&what, || self.try_wait())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
