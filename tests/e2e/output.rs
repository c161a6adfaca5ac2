//! What becomes of a command whose output nobody takes: a full disk, a reader that left, a
//! descriptor that is closed.

use std::fs::OpenOptions;
use std::process::{Command, Output, Stdio};

use crate::support::qmp::Qmp;
use crate::support::transcript::Transcript;
use crate::support::{LIMIT, host};

/// Runs `whimbrel ARGUMENTS` by way of a shell, which sees to where its output goes.
fn shell(arguments: &str, outputs: &str) -> Output {
    let line = format!("exec \"$0\" {arguments} {outputs}");
    Command::new("sh").args(["-c", &line, env!("CARGO_BIN_EXE_whimbrel")]).stdin(Stdio::null()).output().unwrap()
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A pipe's end that nobody reads.
fn unread() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

#[test]
fn help_for_nobody_is_no_error_and_on_a_full_disk_one_that_is_told() {
    for text in ["--help", "--version", "help run", "migrate --help"] {
        for outputs in [">&-", "2>&-", ">&- 2>&-", ">/dev/null 2>/dev/full"] {
            assert_eq!(shell(text, outputs).status.code(), Some(0), "{text} {outputs}");
        }
        let full = shell(text, ">/dev/full");
        assert_eq!(full.status.code(), Some(1), "{text}: {}", log(&full));
        assert!(log(&full).contains("standard output did not take all of the answer: No space left"), "{}", log(&full));
        let status = Command::new(env!("CARGO_BIN_EXE_whimbrel")).args(text.split(' ')).stdout(unread()).status();
        assert_eq!(status.unwrap().code(), Some(0), "{text}");
    }
    for outputs in ["2>/dev/full", "2>&-", ">&- 2>&-"] {
        assert_eq!(shell("run --memory lots", outputs).status.code(), Some(2), "{outputs}");
        assert_eq!(shell("analyze /nonexistent", outputs).status.code(), Some(1), "{outputs}");
    }
}

#[test]
fn a_machine_whose_output_goes_nowhere_runs_on() {
    if !host::has_kvm() {
        return;
    }
    // A pseudo-terminal is named on standard output, a guest writes to it, a monitor answers on it.
    for device in ["--serial pty", "--serial stdio", "--serial null --qmp stdio"] {
        let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
        for output in [full(), unread()] {
            let dir = tempfile::tempdir().unwrap();
            let place = dir.path().join("qmp");
            let listener = std::os::unix::net::UnixListener::bind(&place).unwrap();
            let mut vm = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
                .args("run --kernel builtin:test --memory 64M".split(' ').chain(device.split(' ')))
                .args(["--qmp", &format!("unix:{}", place.display())])
                .env("WHIMBREL_SECCOMP", "kill")
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut qmp = Qmp::new(listener.accept().unwrap().0);
            assert_eq!(qmp.status(), "running", "{device}");
            qmp.query("quit");
            let output = vm.stderr.take().map(Transcript::of).unwrap();
            assert!(output.wait_for_end(LIMIT).is_some(), "{device}");
            assert_eq!(vm.wait().unwrap().code(), Some(0), "{device}: {}", output.text());
        }
    }
}
