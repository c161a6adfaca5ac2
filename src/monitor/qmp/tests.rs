use proptest::prelude::*;
use serde_json::{Value, json};
use whimbrel_postcopy::stats::Status;

use super::QmpSession;
use crate::machine::MachineEvent;
use crate::migration::capabilities::Capability;
use crate::migration::{MigrationEvent, Side};
use crate::monitor::event::Event;
use crate::monitor::fake::FakeVm;
use crate::monitor::session::{Flow, Session};

fn receive(session: &mut QmpSession, vm: &FakeVm, input: &[u8]) -> (Flow, Vec<Value>) {
    let mut out = Vec::new();
    let flow = session.receive(input, vm, &mut out);
    let text = String::from_utf8(out).unwrap();
    let lines = text.split_terminator("\r\n");
    (flow, lines.map(|it| serde_json::from_str(it).unwrap()).collect())
}

fn ready(vm: &FakeVm) -> QmpSession {
    let mut session = QmpSession::new();
    let (_, answers) = receive(&mut session, vm, b"{\"execute\":\"qmp_capabilities\"}");
    assert_eq!(answers, [json!({"return": {}})]);
    session
}

/// The answer to one command.
fn ask(vm: &FakeVm, command: Value) -> Value {
    let (_, mut answers) = receive(&mut ready(vm), vm, command.to_string().as_bytes());
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

pub(in crate::monitor) fn run(vm: &FakeVm, name: &str, arguments: Value) -> Value {
    ask(vm, json!({"execute": name, "arguments": arguments}))
}

fn error(desc: &str) -> Value {
    json!({"error": {"class": "GenericError", "desc": desc}})
}

#[test]
fn strings_may_stand_in_single_quotes() {
    let vm = FakeVm::new();
    let line = br#"{'execute':'stop','id':"it's"}{ 'execute': 'human-monitor-command', 'arguments': {'command-line': '\'"'} }"#;
    let unknown = json!({"return": "unknown command: ''\"'\r\n"});
    assert_eq!(receive(&mut ready(&vm), &vm, line).1, [json!({"id": "it's", "return": {}}), unknown]);
    assert_eq!(vm.told(), "stop");
}

#[test]
fn some_commands_go_out_of_band_once_that_is_agreed() {
    let vm = FakeVm::new();
    let pause = br#"{"exec-oob":"migrate-pause","id":1}"#;
    let refused =
        json!({"id": 1, "error": {"class": "GenericError", "desc": "QMP input member 'exec-oob' is unexpected"}});
    assert_eq!(receive(&mut ready(&vm), &vm, pause).1, std::slice::from_ref(&refused));

    let mut session = QmpSession::new();
    assert_eq!(receive(&mut session, &vm, pause).1, [refused]);
    let enable = br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#;
    assert_eq!(receive(&mut session, &vm, enable).1, [json!({"return": {}})]);
    assert_eq!(vm.told(), "");
    assert_eq!(receive(&mut session, &vm, pause).1, [json!({"id": 1, "return": {}})]);
    let recover = br#"{"exec-oob":"migrate-recover","arguments":{"uri":"unix:/x"}}"#;
    assert_eq!(receive(&mut session, &vm, recover).1, [json!({"return": {}})]);
    assert_eq!(vm.told(), "pause; recover unix:/x");

    for (input, desc) in [
        (r#"{"exec-oob":"stop"}"#, "The command stop does not support OOB"),
        (r#"{"exec-oob":"qmp_capabilities"}"#, "The command qmp_capabilities does not support OOB"),
        (r#"{"exec-oob":1}"#, "QMP input member 'exec-oob' must be a string"),
        (r#"{"exec-oob":"stop","execute":"stop"}"#, "QMP input member 'exec-oob' clashes with 'execute'"),
    ] {
        assert_eq!(receive(&mut session, &vm, input.as_bytes()).1, [error(desc)], "{input}");
    }
    assert_eq!(vm.told(), "");
}

#[test]
fn greeting_and_negotiation() {
    let vm = FakeVm::new();
    let mut session = QmpSession::new();
    let mut out = Vec::new();
    session.greet(&mut out);
    let greeting: Value = serde_json::from_slice(&out).unwrap();
    assert!(greeting["QMP"]["version"]["qemu"]["major"].is_u64());
    assert_eq!(greeting["QMP"]["capabilities"], json!(["oob"]));

    let input = br#"{"execute":"stop","id":1}
        {"execute":"qmp_capabilities","arguments":{"enable":["oob","warp"]}}
        {"execute":"qmp_capabilities","id":[2]}{"execute":"qmp_capabilities"}"#;
    let (_, answers) = receive(&mut session, &vm, input);
    assert_eq!(
        answers,
        [
            json!({"id": 1, "error": {"class": "CommandNotFound",
                "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}),
            error("Capability warp not available"),
            json!({"id": [2], "return": {}}),
            json!({"error": {"class": "CommandNotFound",
                "desc": "Capabilities negotiation is already complete, command ignored"}}),
        ]
    );
    assert_eq!(vm.told(), "");
}

#[test]
fn commands_reach_the_machine() {
    let vm = FakeVm::new();
    let uri = json!({"uri": "tcp:h:1"});
    for (name, arguments, told) in [
        ("migrate", uri.clone(), "migrate tcp:h:1"),
        ("migrate", json!({"uri": "tcp:h:1", "resume": true}), "resume tcp:h:1"),
        ("migrate", json!({"uri": "tcp:h:1", "detach": true}), "migrate tcp:h:1"),
        ("migrate-incoming", uri.clone(), "incoming tcp:h:1"),
        ("migrate-incoming", json!({"uri": "tcp:h:1", "exit-on-error": false}), "incoming tcp:h:1 exit-on-error=false"),
        ("migrate-recover", uri, "recover tcp:h:1"),
        ("migrate_cancel", json!({}), "cancel"),
        ("migrate-start-postcopy", json!({}), "start-postcopy"),
        ("migrate-pause", json!({}), "pause"),
        ("stop", json!({}), "stop"),
        ("system_reset", json!({}), "reset"),
        (
            "announce-self",
            json!({"initial": 1, "max": 2, "rounds": 3, "step": 4, "interfaces": ["net1"], "id": "x"}),
            "announce [\"net1\"] \"x\" [1, 2, 3, 4]",
        ),
        ("announce-self", json!({"initial": 1, "max": 2, "rounds": 3, "step": 4}), "announce [] \"\" [1, 2, 3, 4]"),
        ("balloon", json!({"value": 5 << 20}), "balloon 5242880"),
        ("calc-dirty-rate", json!({"calc-time": 2}), "measure 2 second 512 page-sampling"),
        (
            "calc-dirty-rate",
            json!({"calc-time": 80, "calc-time-unit": "millisecond", "mode": "dirty-bitmap"}),
            "measure 80 millisecond 512 dirty-bitmap",
        ),
        ("set-vcpu-dirty-limit", json!({"dirty-rate": 7, "cpu-index": 1}), "dirty limit 7 Some(1)"),
        ("cancel-vcpu-dirty-limit", json!({}), "no dirty limit None"),
        ("system_powerdown", json!({}), "powerdown"),
        ("quit", json!({}), "quit"),
    ] {
        assert_eq!(run(&vm, name, arguments), json!({"return": {}}), "{name}");
        assert_eq!(vm.told(), told);
    }
}

#[test]
fn the_balloon_is_there_or_not() {
    let vm = FakeVm::new();
    assert_eq!(run(&vm, "query-balloon", json!({})), json!({"return": {"actual": 300 << 20}}));
    for value in [0, -1] {
        let refused = run(&vm, "balloon", json!({ "value": value }));
        assert_eq!(refused["error"]["desc"], "Parameter 'value' expects a size");
    }
    vm.balloon.set(None);
    for (name, arguments) in [("query-balloon", json!({})), ("balloon", json!({"value": 1}))] {
        assert_eq!(run(&vm, name, arguments)["error"]["class"], "DeviceNotActive");
    }
    assert_eq!(vm.told(), "");
}

#[test]
fn mistakes_in_qemus_words() {
    let vm = FakeVm::new();
    for (command, desc) in [
        (json!([]), "QMP input must be a JSON object"),
        (json!({}), "QMP input lacks member 'execute'"),
        (json!({"x": 1}), "QMP input member 'x' is unexpected"),
        (json!({"exec-oob": "stop"}), "QMP input member 'exec-oob' is unexpected"),
        (json!({"execute": 1}), "QMP input member 'execute' must be a string"),
        (json!({"execute": "stop", "arguments": []}), "QMP input member 'arguments' must be an object"),
        (json!({"execute": "stop", "arguments": {"a": 1}}), "Parameter 'a' is unexpected"),
        (json!({"execute": "migrate"}), "need either 'uri' or 'channels' argument"),
        (json!({"execute": "cont"}), "the guest is elsewhere"),
    ] {
        assert_eq!(ask(&vm, command), error(desc));
    }
    assert_eq!(
        ask(&vm, json!({"execute": "nope", "id": "a"})),
        json!({"id": "a", "error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}})
    );
    let desc = "The command qeury-status has not been found; did you mean 'query-status'?";
    let misspelt = json!({"error": {"class": "CommandNotFound", "desc": desc}});
    assert_eq!(ask(&vm, json!({"execute": "qeury-status"})), misspelt);
    assert_eq!(vm.told(), "");
}

#[test]
fn bad_arguments_are_named() {
    let vm = FakeVm::new();
    let capabilities = |list: Value| json!({ "capabilities": list });
    for (name, arguments, desc) in [
        ("migrate", json!({"uri": 1}), "Invalid parameter type for 'uri', expected: string"),
        ("migrate", json!({"channels": 1, "uri": ""}), "Invalid parameter type for 'channels', expected: array"),
        (
            "human-monitor-command",
            json!({"command-line": "", "cpu-index": 2}),
            "Parameter 'cpu-index' expects a CPU number",
        ),
        (
            "human-monitor-command",
            json!({"command-line": "", "cpu-index": -1}),
            "Parameter 'cpu-index' expects a CPU number",
        ),
        (
            "query-dirty-rate",
            json!({"calc-time-unit": "year"}),
            "Parameter 'calc-time-unit' does not accept value 'year'",
        ),
        ("migrate-set-parameters", json!({"tls-authz": "x"}), "Parameter 'tls-authz' is not supported"),
        (
            "migrate-set-parameters",
            json!({"multifd-qatzip-level": 1}),
            "Parameter 'multifd-qatzip-level' is not supported",
        ),
        ("migrate-set-parameters", json!({"x-rdma-chunk-size": 1}), "Parameter 'x-rdma-chunk-size' is not supported"),
        ("migrate-set-parameters", json!({"cpr-exec-command": []}), "Parameter 'cpr-exec-command' is not supported"),
        (
            "migrate-set-parameters",
            json!({"max-bandwidth": "1"}),
            "Invalid parameter type for 'max-bandwidth', expected: integer",
        ),
        ("migrate-set-parameters", json!({"warp": 1}), "Parameter 'warp' is unexpected"),
        (
            "migrate-set-parameters",
            json!({"max_bandwidth": 1}),
            "Parameter 'max_bandwidth' is unexpected; did you mean 'max-bandwidth'?",
        ),
        ("migrate-set-parameters", json!({"tls-authz": 1}), "Parameter 'tls-authz' is not supported"),
        ("migrate-set-parameters", json!({"tls-creds": 1}), "Invalid parameter type for 'tls-creds', expected: string"),
        (
            "migrate-set-parameters",
            json!({"announce-step": 0}),
            "Parameter 'announce-step' expects a value between 1 and 10000",
        ),
        ("announce-self", json!({"initial": 1, "max": 1, "rounds": 1}), "Parameter 'step' is missing"),
        (
            "announce-self",
            json!({"initial": 1, "max": 1, "rounds": 1001, "step": 1}),
            "Parameter 'rounds' expects a value between 0 and 1000",
        ),
        (
            "announce-self",
            json!({"initial": 1, "max": 1, "rounds": 1, "step": 1, "interfaces": ["a", 1]}),
            "Invalid parameter type for 'interfaces[1]', expected: string",
        ),
        (
            "migrate-set-parameters",
            json!({"downtime-limit": 2_000_001}),
            "Parameter 'downtime-limit' expects an integer in the range of 0 to 2000000 ms",
        ),
        (
            "migrate-set-capabilities",
            capabilities(json!(1)),
            "Invalid parameter type for 'capabilities', expected: array",
        ),
        (
            "migrate-set-capabilities",
            capabilities(json!([1])),
            "Invalid parameter type for 'capabilities[0]', expected: object",
        ),
        (
            "migrate-set-capabilities",
            capabilities(json!([{"capability": "events"}])),
            "Parameter 'capabilities[0].state' is missing",
        ),
        (
            "migrate-set-capabilities",
            capabilities(json!([{"capability": "warp", "state": true}])),
            "Parameter 'capability' does not accept value 'warp'",
        ),
        (
            "migrate-set-capabilities",
            capabilities(json!([{"capability": "rdma-pin-all", "state": true}])),
            "capability rdma-pin-all is not supported",
        ),
    ] {
        assert_eq!(run(&vm, name, arguments), error(desc), "{name}");
    }
    assert_eq!(vm.told(), "");
}

#[test]
fn settings_change_all_or_nothing() {
    let vm = FakeVm::new();
    run(&vm, "migrate-set-parameters", json!({"max-bandwidth": 5, "x-postcopy-after": 0, "tls-creds": "/pki"}));
    let answer = run(&vm, "migrate-set-parameters", json!({"max-bandwidth": 6, "downtime-limit": -1}));
    assert!(answer["error"].is_object());
    assert_eq!(
        run(&vm, "query-migrate-parameters", json!({}))["return"],
        json!({"announce-initial": 50, "announce-max": 550, "announce-rounds": 5, "announce-step": 100,
               "throttle-trigger-threshold": 50, "cpu-throttle-initial": 20, "cpu-throttle-increment": 10,
               "cpu-throttle-tailslow": false, "max-cpu-throttle": 99, "tls-creds": "/pki", "tls-hostname": "",
               "max-bandwidth": 5, "avail-switchover-bandwidth": 0, "max-postcopy-bandwidth": 0, "downtime-limit": 300,
               "multifd-channels": 2, "multifd-compression": "none", "multifd-zlib-level": 1, "multifd-zstd-level": 1,
               "zero-page-detection": "multifd", "xbzrle-cache-size": 67108864, "x-vcpu-dirty-limit-period": 1000,
               "vcpu-dirty-limit": 1, "mode": "normal", "direct-io": false, "x-postcopy-after": 0,
               "postcopy-policy": "after-passes=0", "x-reconnect": 0, "x-keepalive": 10000})
    );
    let list = json!([{"capability": "events", "state": true}, {"capability": "return-path", "state": false}]);
    let answer = run(&vm, "migrate-set-capabilities", json!({ "capabilities": list }));
    assert!(answer["error"].is_object());
    assert!(!vm.capabilities.get().get(Capability::Events));
}

/// As QEMU takes them, and its management tools give them.
#[test]
fn sizes_of_64_bits_nulls_and_words_are_taken() {
    let vm = FakeVm::new();
    let set = |arguments: Value| run(&vm, "migrate-set-parameters", arguments);
    let get = |name: &str| run(&vm, "query-migrate-parameters", json!({}))["return"][name].clone();
    for bandwidth in [json!(-1), json!(u64::MAX)] {
        assert_eq!(set(json!({"max-bandwidth": bandwidth})), json!({"return": {}}));
        assert_eq!(get("max-bandwidth"), json!(u64::MAX));
    }
    set(json!({"tls-creds": "/pki", "tls-hostname": "there"}));
    assert_eq!(set(json!({"tls-creds": null, "tls-hostname": null, "tls-authz": null})), json!({"return": {}}));
    assert_eq!((get("tls-creds"), get("tls-hostname")), (json!(""), json!("")));
    assert_eq!(set(json!({"mode": "normal", "tls-authz": ""})), json!({"return": {}}));
    let refused = |arguments: Value| set(arguments)["error"]["desc"].as_str().unwrap().to_owned();
    assert!(refused(json!({"mode": "cpr-transfer"})).contains("x-ignore-shared"));
    assert!(refused(json!({"mode": "x"})).starts_with("Parameter 'mode' does not accept value 'x'"));
    assert!(
        refused(json!({"multifd-compression": "x"}))
            .starts_with("Parameter 'multifd-compression' does not accept value 'x'")
    );
    assert!(refused(json!({"xbzrle-cache-size": -1})).contains("a power of two"));
    assert!(refused(json!({"downtime-limit": 1u64 << 63})).contains("integer"));
}

#[test]
fn all_capabilities_may_be_set_as_they_are_listed() {
    let vm = FakeVm::new();
    let listed = run(&vm, "query-migrate-capabilities", json!({}))["return"].take();
    assert_eq!(listed.as_array().unwrap().len(), 22);
    assert_eq!(run(&vm, "migrate-set-capabilities", json!({"capabilities": listed})), json!({"return": {}}));
    for name in ["rdma-pin-all", "x-colo", "dirty-bitmaps", "zero-copy-send", "switchover-ack"] {
        let on = json!({"capabilities": [{"capability": name, "state": true}]});
        let answer = run(&vm, "migrate-set-capabilities", on);
        assert_eq!(answer["error"]["desc"], format!("capability {name} is not supported"));
    }
}

#[test]
fn a_line_of_people_may_be_about_one_vcpu() {
    let vm = FakeVm::new();
    let of =
        |vcpu: u64| run(&vm, "human-monitor-command", json!({"command-line": "info registers", "cpu-index": vcpu}));
    assert_eq!((of(0), of(1)), (json!({"return": "CPU#0\r\nrip=1\r\n"}), json!({"return": "CPU#1\r\nrip=2\r\n"})));
}

#[test]
fn links_are_yanked_and_nothing_else_is() {
    let vm = FakeVm::new();
    let yank = |instances: Value| run(&vm, "yank", json!({ "instances": instances }));
    let missing = |what: &str| {
        let desc = format!("Instance not found: there is no '{what}' to yank; query-yank tells what there is");
        json!({"error": {"class": "DeviceNotFound", "desc": desc}})
    };
    assert_eq!(run(&vm, "query-yank", json!({})), json!({"return": []}));
    assert_eq!(yank(json!([{"type": "migration"}])), missing("migration"));
    vm.set_status(Side::Source, Status::Active, None);
    assert_eq!(run(&vm, "query-yank", json!({})), json!({"return": [{"type": "migration"}]}));
    vm.told();
    // All or nothing.
    assert_eq!(yank(json!([{"type": "migration"}, {"type": "chardev", "id": "c0"}])), missing("chardev"));
    assert_eq!(yank(json!([])), json!({"return": {}}));
    for (instances, desc) in [
        (json!([1]), "Invalid parameter type for 'instances[0]', expected: object"),
        (json!([{}]), "Parameter 'instances[0].type' is missing"),
        (json!([{"type": "moon"}]), "Parameter 'type' does not accept value 'moon'"),
        (json!([{"type": "migration", "id": 1}]), "Parameter 'instances[0].id' is unexpected"),
    ] {
        assert_eq!(yank(instances), error(desc));
    }
    assert_eq!(vm.told(), "");
    assert_eq!(yank(json!([{"type": "migration"}])), json!({"return": {}}));
    assert_eq!(vm.told(), "yank");
}

#[test]
fn queries() {
    let vm = FakeVm::new();
    let query = |name: &str| run(&vm, name, json!({}))["return"].clone();
    assert_eq!(query("query-status"), json!({"status": "running", "running": true}));
    assert_eq!(query("query-name"), json!({"name": "guest"}));
    assert_eq!(query("query-uuid"), json!({"UUID": "6f0ec1a4-7d53-4a3c-9a56-0d1c1f2b3a4d"}));
    assert_eq!(query("query-kvm"), json!({"enabled": true, "present": true}));
    assert_eq!(query("query-accelerators"), json!({"enabled": "kvm", "present": ["kvm"]}));
    assert_eq!(query("query-cpus-fast")[1]["qom-type"], "host-x86_64-cpu");
    assert_eq!(query("query-cpus-fast")[1]["thread-id"], 101);
    assert_eq!((query("query-migrate"), query("x-query-migrate-pages")), (json!({}), json!({})));
    assert!(query("query-version")["package"].as_str().unwrap().starts_with("whimbrel "));
    let names = query("query-commands");
    assert!(names.as_array().unwrap().contains(&json!({"name": "qmp_capabilities"})));
    assert!(names.as_array().unwrap().contains(&json!({"name": "migrate"})));
    let schema = query("query-qmp-schema");
    assert!(schema.as_array().unwrap().iter().any(|it| it["name"] == "migrate" && it["meta-type"] == "command"));
    assert_eq!(run(&vm, "human-monitor-command", json!({"command-line": "info name"})), json!({"return": "guest\r\n"}));
    let line = json!({"command-line": "migrate tcp:h:1"});
    let answer = run(&vm, "human-monitor-command", line);
    assert!(answer["return"].as_str().unwrap().contains("continues detached"));
}

#[test]
fn pages_are_told_of_in_as_many_parts_as_asked_for() {
    let vm = FakeVm::new();
    vm.set_status(Side::Destination, Status::PostcopyActive, None);
    let ask = |arguments| run(&vm, "x-query-migrate-pages", arguments);
    let map = |buckets: Value| json!({"return": {"side": "destination", "page-size": 4096, "pages": 4, "arrived": 3, "buckets": buckets}});
    assert_eq!(ask(json!({"buckets": 2})), map(json!([2, 1])));
    assert_eq!(ask(json!({})), map(json!([1, 1, 1, 0])), "never more parts than pages");
    for wrong in [-1, 0, 16_385, i64::MAX] {
        let refused = error("Parameter 'buckets' expects a value between 1 and 16384");
        assert_eq!(ask(json!({ "buckets": wrong })), refused, "{wrong}");
    }
}

#[test]
fn events_come_after_negotiation_only() {
    let vm = FakeVm::new();
    let mut out = Vec::new();
    let event = Event::of_machine(MachineEvent::Reset { guest: true }, &FakeVm::new());
    let _ = QmpSession::new().notify(&event, &vm, &mut out);
    assert!(out.is_empty());
    let _ = ready(&vm).notify(&event, &vm, &mut out);
    let value: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(value["event"], "RESET");
    assert_eq!(value["data"], json!({"guest": true, "reason": "guest-reset"}));
    assert!(value["timestamp"]["seconds"].as_u64().unwrap() > 1_700_000_000);
    assert!(value["timestamp"]["microseconds"].as_u64().unwrap() < 1_000_000);

    let of = |event| Event::of_migration(&event).to_json();
    assert_eq!(of(MigrationEvent::Status(Status::PostcopyActive))["data"], json!({"status": "postcopy-active"}));
    assert_eq!(of(MigrationEvent::Pass(2))["data"], json!({"pass": 2}));
    let stop = Event::of_machine(MachineEvent::Stop, &FakeVm::new()).to_json();
    assert!(stop.get("data").is_none());
}

#[test]
fn commands_may_be_cut_at_every_byte() {
    let input = br#"{"execute":"query-name","id":"}\"{"} {"execute":"stop"}
        {"execute":"query-status","arguments":{}}"#;
    let vm = FakeVm::new();
    let (_, whole) = receive(&mut ready(&vm), &vm, input);
    assert_eq!(whole.len(), 3);
    for cut in 0..=input.len() {
        let mut session = ready(&vm);
        let (_, mut answers) = receive(&mut session, &vm, &input[..cut]);
        answers.extend(receive(&mut session, &vm, &input[cut..]).1);
        assert_eq!(answers, whole, "cut at {cut}");
    }
}

#[test]
fn excess_closes_with_a_word() {
    let vm = FakeVm::new();
    for input in ["[".repeat(100), format!("{{\"execute\":\"{}\"}}", "x".repeat(70_000))] {
        let (flow, answers) = receive(&mut ready(&vm), &vm, input.as_bytes());
        assert_eq!(flow, Flow::Close);
        assert_eq!(answers.len(), 1);
        assert!(answers[0]["error"]["desc"].as_str().unwrap().starts_with("JSON parse error"));
    }
}

#[test]
fn a_forgotten_quote_costs_one_line() {
    let vm = FakeVm::new();
    let (_, answers) = receive(&mut ready(&vm), &vm, b"{\"execute: 1}\n{\"execute\":\"query-name\"}");
    assert!(answers[0]["error"].is_object());
    assert_eq!(answers[1], json!({"return": {"name": "guest"}}));
}

proptest! {
    /// Whatever comes in, what goes out is JSON, and small.
    #[test]
    fn hostile_bytes_get_answers_in_json(
        input in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(br#"{}[]":,\ 1ten"#.to_vec())], 0..400),
    ) {
        let vm = FakeVm::new();
        let mut session = ready(&vm);
        let (_, answers) = receive(&mut session, &vm, &input);
        for answer in answers {
            prop_assert!(answer["error"]["desc"].is_string());
        }
    }

    /// A known command with arguments of any shape is executed or refused, never more.
    #[test]
    fn hostile_arguments(name in "(migrate|stop|migrate-set-capabilities|migrate-set-parameters|human-monitor-command)",
                         key in "(uri|capabilities|max-bandwidth|command-line|x)",
                         value in "(1|-1|1e99|null|true|\"\"|\"help \\\\\\\\\"|\\[\\]|\\[\\{\\}\\]|\\{\"a\":\\[\\]\\})") {
        let vm = FakeVm::new();
        let text = format!("{{\"execute\":\"{name}\",\"arguments\":{{\"{key}\":{value}}}}}");
        let (flow, answers) = receive(&mut ready(&vm), &vm, text.as_bytes());
        prop_assert_eq!(flow, Flow::Continue);
        prop_assert_eq!(answers.len(), 1, "{}", text);
    }
}

#[test]
fn dirty_rates_and_limits() {
    let vm = FakeVm::new();
    for (arguments, desc) in [
        (json!({"calc-time": 1, "mode": "dirty-ring"}), "mode dirty-ring is not enabled, use other method instead."),
        (json!({"calc-time": 1, "mode": "guess"}), "Parameter 'mode' does not accept value 'guess'"),
        (json!({"calc-time": 1, "calc-time-unit": "year"}), "Parameter 'calc-time-unit' does not accept value 'year'"),
        (
            json!({"calc-time": 1, "mode": "dirty-bitmap", "sample-pages": 512}),
            "sample-pages is used only in page-sampling mode",
        ),
        (json!({"calc-time": 61}), "Calculation time is out of range [50ms, 60000ms]."),
    ] {
        assert_eq!(run(&vm, "calc-dirty-rate", arguments), error(desc));
        assert_eq!(vm.told(), "");
    }
    assert_eq!(
        run(&vm, "query-dirty-rate", json!({}))["return"],
        json!({"status": "measured", "dirty-rate": 34, "start-time": 1_700_000_000, "calc-time": 2, "calc-time-unit": "second",
            "sample-pages": 512, "mode": "page-sampling"})
    );
    assert_eq!(run(&vm, "query-vcpu-dirty-limit", json!({}))["return"], json!([]));
    run(&vm, "set-vcpu-dirty-limit", json!({"dirty-rate": 7}));
    assert_eq!(
        run(&vm, "query-vcpu-dirty-limit", json!({}))["return"],
        json!([{"cpu-index": 0, "limit-rate": 7, "current-rate": 9}, {"cpu-index": 1, "limit-rate": 7, "current-rate": 9}])
    );
}
