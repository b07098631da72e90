//! A program under test as a child process: started, awaited by a line of its output, killed in the middle, started again.

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Result};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A child process whose output is read line by line. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts the program. Its standard error goes where this process's does.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or_else(|| Error::other("the child has no output"))?;
        let (sender, lines) = channel();
        // Read to the end whether or not anybody asks, so that a talkative child never blocks.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for the first line that `wanted` finds something in, and answers what it found.
    ///
    /// # Errors
    /// `UnexpectedEof`, with everything it said, when the child ends before.
    pub fn await_line<T>(&mut self, mut wanted: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let mut said = Vec::new();
        while let Ok(line) = self.lines.recv() {
            if let Some(found) = wanted(&line) {
                return Ok(found);
            }
            said.push(line);
        }
        let status = self.child.wait()?;
        Err(Error::new(
            ErrorKind::UnexpectedEof,
            format!("the child ended with {status} after saying: {}", said.join("\n")),
        ))
    }

    /// The process id: for signals.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once (SIGKILL on unix) and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wait(mut self) -> Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Process> {
        Process::start(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn a_line_is_awaited_and_the_child_killed_and_started_again() {
        for _ in 0..2 {
            let mut child = shell("echo starting; echo listening on 17; exec tail -f /dev/null").unwrap();
            let port = child.await_line(|line| line.strip_prefix("listening on ")?.parse::<u16>().ok());
            assert_eq!(port.unwrap(), 17);
            assert_eq!(child.kill().unwrap().code(), None, "by a signal");
        }
    }

    #[test]
    fn a_child_that_ends_before_its_line_is_an_error_with_what_it_said() {
        let error = shell("echo no luck; exit 3").unwrap().await_line(|_| None::<()>).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("no luck") && error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn a_child_is_gone_when_its_handle_is() {
        let mut child = shell("echo $$; exec tail -f /dev/null").unwrap();
        let id: u32 = child.await_line(|line| line.parse().ok()).unwrap();
        assert_eq!(id, child.id());
        drop(child);
        let alive = Command::new("sh").args(["-c", &format!("kill -0 {id}")]).stderr(Stdio::null()).status();
        assert!(!alive.unwrap().success());
    }
}
