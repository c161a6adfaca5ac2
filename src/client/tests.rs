use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use serde_json::{Map, Value, json};

use super::drive::{Signals, drive};
use super::outcome::{CODES, End, Outcome};
use super::plan::{Plan, QmpAddress, Settings, Task};
use crate::migration::capabilities::Capability;
use crate::migration::parameters::Parameter;
use crate::migration::uri::Uri;

/// A virtual machine's monitor: it keeps what is set, and answers `query-migrate` from a script,
/// the last entry for ever. A null there is the process's end.
struct Scripted {
    capabilities: Map<String, Value>,
    parameters: Map<String, Value>,
    /// A command that it refuses.
    refuses: Option<&'static str>,
    asked: Vec<Value>,
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

impl Scripted {
    fn new() -> Self {
        Self {
            capabilities: object(json!({"events": false, "postcopy-ram": false, "multifd": true})),
            parameters: object(json!({"postcopy-policy": "manual", "max-bandwidth": 7, "x-reconnect": 0})),
            refuses: None,
            asked: Vec::new(),
        }
    }

    fn serve(mut self, listener: &UnixListener, script: &[Value]) -> Self {
        let mut stream = listener.accept().unwrap().0;
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
            let (name, arguments) = (command["execute"].as_str().unwrap(), &command["arguments"]);
            if self.refuses == Some(name) {
                send(&mut stream, json!({"error": {"class": "GenericError", "desc": "not today"}}));
                continue;
            }
            let answer = match name {
                "query-migrate" => {
                    report = reports.next().unwrap_or(report);
                    if report.is_null() {
                        break;
                    }
                    send(&mut stream, json!({"event": "MIGRATION", "data": {"status": report["status"]}}));
                    report.clone()
                }
                "query-migrate-capabilities" => {
                    self.capabilities.iter().map(|(name, on)| json!({"capability": name, "state": on})).collect()
                }
                "query-migrate-parameters" => self.parameters.clone().into(),
                _ => {
                    for (name, value) in arguments.as_object().unwrap() {
                        if let Some(known) = self.parameters.get_mut(name) {
                            *known = value.clone();
                        }
                    }
                    for change in arguments["capabilities"].as_array().into_iter().flatten() {
                        self.capabilities[change["capability"].as_str().unwrap()] = change["state"].clone();
                    }
                    self.asked.push(command.clone());
                    json!({})
                }
            };
            send(&mut stream, json!({ "return": answer }));
        }
        self
    }

    fn names(&self) -> Vec<&str> {
        self.asked.iter().map(|it| it["execute"].as_str().unwrap()).collect()
    }
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.parameter(Parameter::of("x-postcopy-after"), 2.into()).unwrap();
    settings.parameter(Parameter::of("max-bandwidth"), 1000.into()).unwrap();
    settings.capability(Capability::PostcopyRam, true).unwrap();
    settings.capability(Capability::Multifd, true).unwrap();
    settings
}

fn to() -> Uri {
    "tcp:h:1".parse().unwrap()
}

/// Drives against a machine that has this to say; before the first look, `signals` came.
fn play(task: Task, vm: Scripted, script: &[Value], prepare: impl FnOnce(&Signals)) -> (End, Plan, Scripted) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let settings = if task == Task::Follow { Settings::default() } else { settings() };
    let plan = Plan { qmp: QmpAddress::Unix(path), task, settings, json: false };
    let signals = Signals::default();
    prepare(&signals);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let vm = vm.serve(&listener, script);
            // Whoever comes again finds nobody.
            std::fs::remove_file(listener.local_addr().unwrap().as_pathname().unwrap()).unwrap();
            vm
        });
        let end = drive(&plan, &signals);
        (end, plan.clone(), server.join().unwrap())
    })
}

/// A guest in a file is not at a destination, whoever asks; one that was only copied is where it
/// was.
#[test]
fn where_the_guest_is_told_as_the_virtual_machine_has_it() {
    for (whereabouts, guest, words) in [
        (json!("written-down"), "stream", "The guest is at the file or stream"),
        (json!("here"), "source", "The guest goes on here"),
        (Value::Null, "destination", "The guest is at its destination"),
    ] {
        let mut report = json!({"status": "completed"});
        if !whereabouts.is_null() {
            report["x-guest"] = whereabouts;
        }
        let (end, plan, _) = play(Task::Follow, Scripted::new(), &[report], |_| ());
        assert_eq!(end.to_json(&plan)["guest"], guest);
        assert!(end.sentence(&plan).starts_with(words), "{}", end.sentence(&plan));
    }
}

fn moved(script: &[Value]) -> (End, Plan, Scripted) {
    play(Task::Move { to: to(), detach: false }, Scripted::new(), script, |_| ())
}

#[test]
fn sets_migrates_follows_to_the_end_and_puts_back_what_it_set() {
    let (end, plan, vm) = moved(&[
        json!({"status": "setup"}),
        json!({"status": "active", "ram": {"total": 100, "remaining": 50, "mbps": 1.5}}),
        json!({"status": "postcopy-active"}),
        json!({"status": "completed", "total-time": 5}),
    ]);
    assert_eq!((end.outcome, end.kept.len()), (Outcome::Completed, 0));
    assert_eq!(end.report["total-time"], 5);
    assert_eq!(
        vm.names(),
        [
            "qmp_capabilities",
            "migrate-set-parameters",
            "migrate-set-capabilities",
            "migrate",
            "migrate-set-parameters",
            "migrate-set-capabilities"
        ]
    );
    assert_eq!(vm.asked[1]["arguments"], json!({"postcopy-policy": "after-passes=2", "max-bandwidth": 1000}));
    // What was so already is not touched.
    let on = |name: &str, on| json!({"capability": name, "state": on});
    assert_eq!(vm.asked[2]["arguments"], json!({"capabilities": [on("events", true), on("postcopy-ram", true)]}));
    assert_eq!(vm.asked[3]["arguments"], json!({"uri": "tcp:h:1"}));
    assert_eq!((vm.capabilities, vm.parameters), (Scripted::new().capabilities, Scripted::new().parameters));
    let told = end.to_json(&plan);
    assert_eq!(
        (&told["outcome"], &told["guest"], &told["exit-code"]),
        (&json!("completed"), &json!("destination"), &json!(0))
    );
}

#[test]
fn every_end_has_a_code_says_where_the_guest_is_and_leaves_no_setting_that_is_not_told() {
    let why = |status: &str| json!({"status": status, "error-desc": "because"});
    for (script, outcome, code, guest, restored) in [
        (vec![why("failed")], Outcome::Failed, 1, "source", true),
        (vec![why("cancelled")], Outcome::Cancelled, 3, "source", true),
        (vec![why("postcopy-paused")], Outcome::Paused, 4, "both", false),
        (vec![why("active"), Value::Null], Outcome::Lost, 5, "unknown", false),
    ] {
        let (end, plan, vm) = moved(&script);
        assert_eq!((end.outcome, end.outcome.code()), (outcome, code));
        assert!(CODES.iter().any(|(known, _)| *known == code));
        let told = end.to_json(&plan);
        assert_eq!(told["guest"], guest, "{told}");
        assert_eq!(vm.parameters == Scripted::new().parameters, restored, "{told}");
        assert_eq!(end.kept.is_empty(), restored, "{told}");
        if !restored {
            assert_eq!(told["still-set"]["max-bandwidth"], json!({"now": 1000, "before": 7}));
            assert!(end.kept_text().contains("max-bandwidth = 1000 (before: 7)"));
            assert!(told["next"].as_str().unwrap().starts_with("whimbrel migrate --qmp "), "{told}");
        }
        assert!(outcome == Outcome::Cancelled || outcome == Outcome::Lost || end.sentence(&plan).contains("because"));
    }
}

#[test]
fn the_documentation_has_the_codes() {
    let rows: String = CODES.iter().map(|(code, means)| format!("| {code} | {means} |\n")).collect();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/monitor.md")).unwrap();
    assert!(text.contains(&rows), "docs/monitor.md should have\n{rows}");
}

#[test]
fn what_is_refused_begins_nothing_and_is_put_back() {
    for command in ["migrate", "migrate-set-capabilities", "migrate-set-parameters"] {
        let vm = Scripted { refuses: Some(command), ..Scripted::new() };
        let (end, plan, vm) = play(Task::Move { to: to(), detach: false }, vm, &[], |_| ());
        assert_eq!((end.outcome.code(), end.sentence(&plan)), (6, "not today".to_owned()));
        assert_eq!(end.to_json(&plan)["guest"], "unmoved");
        assert_eq!(vm.parameters, Scripted::new().parameters, "{command}");
        // What it does not take it cannot take back.
        assert!(command == "migrate-set-capabilities" || vm.capabilities == Scripted::new().capabilities, "{command}");
    }
    let plan = Plan {
        qmp: QmpAddress::Unix("/nowhere/qmp".into()),
        task: Task::Follow,
        settings: Settings::default(),
        json: false,
    };
    let end = drive(&plan, &Signals::default());
    assert_eq!(end.outcome.code(), 6);
    assert!(end.sentence(&plan).contains("/nowhere/qmp"));
}

#[test]
fn a_signal_cancels_before_the_switch_and_after_it_the_migration_is_left_and_said_to_go_on() {
    use std::sync::atomic::Ordering::Relaxed;
    let task = || Task::Move { to: to(), detach: false };
    let active = json!({"status": "active"});
    for terminate in [false, true] {
        let came = |signals: &Signals| {
            if terminate { &signals.terminate } else { &signals.interrupt }.store(true, Relaxed);
        };
        let script = [active.clone(), json!({"status": "cancelling"}), json!({"status": "cancelled"})];
        let (end, _, vm) = play(task(), Scripted::new(), &script, came);
        assert_eq!(end.outcome, Outcome::Cancelled);
        assert!(vm.names().contains(&"migrate_cancel"));
        assert_eq!(vm.parameters, Scripted::new().parameters);
    }
    let after = json!({"status": "postcopy-active"});
    let (end, plan, vm) = play(task(), Scripted::new(), &[after], |signals| signals.terminate.store(true, Relaxed));
    assert_eq!((end.outcome, end.outcome.code()), (Outcome::LeftAfter, 5));
    assert!(!vm.names().contains(&"migrate_cancel"));
    assert!(end.sentence(&plan).contains("goes on") && end.to_json(&plan)["guest"] == "both");
    // Ctrl-C is answered first: the migration may still end here.
    let script = [json!({"status": "postcopy-active"}), json!({"status": "completed"})];
    let (end, ..) = play(task(), Scripted::new(), &script, |signals| signals.interrupt.store(true, Relaxed));
    assert_eq!(end.outcome, Outcome::Completed);
    // Whoever looks on ends his looking.
    let (end, _, vm) = play(Task::Follow, Scripted::new(), &[active.clone(), active], |signals| {
        signals.interrupt.store(true, Relaxed)
    });
    assert_eq!((end.outcome, vm.names()), (Outcome::LeftBefore, vec!["qmp_capabilities"]));
}

#[test]
fn following_joins_whatever_there_is_and_sets_nothing() {
    let follow = |script: &[Value]| play(Task::Follow, Scripted::new(), script, |_| ());
    for (script, outcome) in [
        (vec![json!({"status": "active"}), json!({"status": "completed"})], Outcome::Completed),
        (vec![json!({"status": "completed"})], Outcome::Completed),
        (vec![json!({"status": "failed"})], Outcome::Failed),
        (vec![json!({"status": "postcopy-paused"})], Outcome::Paused),
        (vec![json!({})], Outcome::Refused),
    ] {
        let (end, _, vm) = follow(&script);
        assert_eq!(end.outcome, outcome);
        assert_eq!(vm.names(), ["qmp_capabilities"]);
    }
}

#[test]
fn detached_it_begins_and_keeps_its_settings() {
    let task = Task::Move { to: to(), detach: true };
    let (end, plan, vm) = play(task, Scripted::new(), &[json!({"status": "setup"})], |_| ());
    assert_eq!((end.outcome, vm.names().last().copied()), (Outcome::LeftBefore, Some("migrate")));
    assert_eq!(vm.parameters["max-bandwidth"], 1000);
    assert!(end.to_json(&plan)["next"].as_str().unwrap().ends_with("--follow"));
    assert_eq!(end.kept.len(), 3);
}

#[test]
fn the_halves_are_joined_and_a_pause_that_is_left_is_no_end() {
    let paused = json!({"status": "postcopy-paused", "error-desc": "cut"});
    let task = || Task::Recover { to: to(), listen: to(), destination: None };
    let script = [paused.clone(), json!({"status": "postcopy-recover-setup"}), json!({"status": "completed"})];
    let (end, _, vm) = play(task(), Scripted::new(), &script, |_| ());
    assert_eq!(end.outcome, Outcome::Completed);
    let joined = vm.asked.iter().find(|it| it["execute"] == "migrate").unwrap();
    assert_eq!(joined["arguments"], json!({"uri": "tcp:h:1", "resume": true}));
    // A machine that tries by itself is waited for.
    let mut vm = Scripted::new();
    vm.parameters.insert("x-reconnect".to_owned(), json!(60));
    let script = [paused.clone(), paused, json!({"status": "postcopy-active"}), json!({"status": "completed"})];
    assert_eq!(play(Task::Follow, vm, &script, |_| ()).0.outcome, Outcome::Completed);
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
