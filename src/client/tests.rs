use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use serde_json::{Value, json};

use super::drive::{DriveError, migrate};
use super::plan::{Mode, Plan, QmpAddress};

/// A QMP server that answers `query-migrate` from a script, the last entry for ever; returns what it was asked.
fn scripted(listener: UnixListener, script: &[Value]) -> Vec<Value> {
    let mut stream = listener.accept().unwrap().0;
    let mut asked = Vec::new();
    let mut reports = script.iter();
    let mut report = &Value::Null;
    let send = |stream: &mut UnixStream, value: Value| {
        // The driver may have gone: its own test says whether it should have.
        let _ = stream.write_all(format!("{value}\r\n").as_bytes());
    };
    send(&mut stream, json!({"QMP": {"version": {}, "capabilities": []}}));
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let Ok(line) = line else { break };
        let command: Value = serde_json::from_str(&line).unwrap();
        if command["execute"] == "query-migrate" {
            report = reports.next().unwrap_or(report);
            send(&mut stream, json!({"event": "MIGRATION", "data": {}}));
            send(&mut stream, json!({ "return": report }));
        } else {
            send(&mut stream, json!({"return": {}}));
            asked.push(command);
        }
    }
    asked
}

fn drive(script: &[Value]) -> (Result<(), DriveError>, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let plan = Plan {
        qmp: QmpAddress::Unix(path),
        to: "tcp:h:1".parse().unwrap(),
        mode: Some(Mode::Hybrid { passes: 2 }),
        bandwidth: Some(1000),
        postcopy_bandwidth: None,
        downtime_limit: None,
        tls_dir: None,
        tls_hostname: None,
    };
    thread::scope(|scope| {
        let server = scope.spawn(|| scripted(listener, script));
        let result = migrate(&plan);
        (result, server.join().unwrap())
    })
}

#[test]
fn sets_migrates_and_follows_to_the_end() {
    let (result, asked) = drive(&[
        json!({"status": "setup"}),
        json!({"status": "active", "ram": {"total": 100, "remaining": 50, "mbps": 1.5}}),
        json!({"status": "postcopy-active"}),
        json!({"status": "completed", "total-time": 5}),
    ]);
    result.unwrap();
    let names: Vec<_> = asked.iter().map(|it| it["execute"].as_str().unwrap()).collect();
    assert_eq!(names, ["qmp_capabilities", "migrate-set-capabilities", "migrate-set-parameters", "migrate"]);
    assert_eq!(asked[2]["arguments"], json!({"x-postcopy-after": 2, "max-bandwidth": 1000}));
    assert_eq!(asked[3]["arguments"], json!({"uri": "tcp:h:1"}));
}

#[test]
fn every_other_end_is_an_error_that_says_why() {
    let end = |status: &str| drive(&[json!({"status": status, "error-desc": "because"})]).0;
    let failed = end("failed").unwrap_err();
    assert!(failed.to_string().ends_with("because"));
    assert!(matches!(end("cancelled"), Err(DriveError::Cancelled)));
    assert!(matches!(end("postcopy-paused"), Err(DriveError::Paused(_))));
}

#[test]
fn what_is_no_qmp_server_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hmp");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"Whimbrel monitor\n(whimbrel) ").unwrap();
    });
    let error = super::connection::Connection::open(&QmpAddress::Unix(path)).err().unwrap();
    assert!(matches!(error, super::QmpError::NotQmp), "{error}");
    server.join().unwrap();
}
