//! What a monitor's clients say, in any pieces.
//!
//! The first byte's lowest bit chooses the language, the rest the length of the pieces. What is
//! answered may not depend on the pieces.

use whimbrel::migration::Side;
use whimbrel::migration::uri::Uri;
use whimbrel::monitor::fake::FakeVm;
use whimbrel::monitor::hmp::{self, HmpSession};
use whimbrel::monitor::qmp::QmpSession;
use whimbrel::monitor::session::{Flow, Session};
use whimbrel::snapshots::JobStatus;
use whimbrel_postcopy::stats::Status;

use crate::{Seed, memory};

pub fn check(data: &[u8]) {
    let Some((&first, said)) = data.split_first() else { return };
    memory::limit(64 * data.len() + (4 << 20));
    let (qmp, piece) = (first & 1 == 0, usize::from(first >> 1) + 1);
    let whole = conversation(qmp, said, said.len().max(1));
    let pieces = conversation(qmp, said, piece);
    assert_eq!(whole.told, pieces.told, "the pieces changed what was done");
    assert_eq!(text(&whole.out), text(&pieces.out), "the pieces changed the answers");
    if qmp {
        let answers = std::str::from_utf8(&whole.out).expect("answers are text");
        for line in answers.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("an answer is JSON");
            assert!(value.is_object());
        }
    }
    if let Ok(line) = std::str::from_utf8(said) {
        drop(hmp::run_detached(line, &FakeVm::new(), 0));
        if let Ok(uri) = line.parse::<Uri>() {
            assert_eq!(uri.to_string().parse(), Ok(uri), "an address reads back as it was written");
        }
    }
    memory::limit(512 << 20);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

struct Conversation {
    out: Vec<u8>,
    told: String,
}

/// A session that waits for a job waits until it is over, and nobody else ends those of a model.
fn end_jobs(vm: &FakeVm) {
    vm.jobs.borrow_mut().iter_mut().for_each(|job| job.status = JobStatus::Concluded);
}

fn conversation(qmp: bool, said: &[u8], piece: usize) -> Conversation {
    let vm = FakeVm::new();
    vm.set_status(Side::Source, Status::Completed, Some("a \"quoted\" error"));
    let mut session: Box<dyn Session> = if qmp { Box::new(QmpSession::new()) } else { Box::new(HmpSession::new()) };
    let mut out = Vec::new();
    session.greet(&mut out);
    let mut flow = Flow::Continue;
    for part in said.chunks(piece) {
        // A client that waits for a migration is not read from until it is over.
        while flow == Flow::Continue && !session.wants_input() {
            end_jobs(&vm);
            flow = session.tick(&vm, &mut out);
        }
        if flow == Flow::Continue {
            flow = session.receive(part, &vm, &mut out);
        }
    }
    while flow == Flow::Continue && !session.wants_input() {
        end_jobs(&vm);
        flow = session.tick(&vm, &mut out);
    }
    Conversation { out, told: vm.told() }
}

pub fn seeds() -> Vec<Seed> {
    let hmp = |text: &str| [&[13][..], text.as_bytes()].concat();
    let qmp = |text: &str| {
        let negotiated = format!("{{\"execute\":\"qmp_capabilities\"}}\n{text}");
        [&[24][..], negotiated.as_bytes()].concat()
    };
    vec![
        (
            "hmp-info",
            hmp("info status\ninfo migrate\r\ninfo migrate_parameters\ninfo cpus\ninfo network\ninfo balloon\nhelp\n"),
        ),
        (
            "hmp-migrate",
            hmp("migrate tcp:127.0.0.1:4444\nmigrate -d unix:/run/x\nmigrate_set_parameter max-bandwidth 1G\n"),
        ),
        ("hmp-set", hmp("migrate_set_capability postcopy-ram on\nballoon 100\nannounce_self net0\nstop\ncont\nquit\n")),
        // The second migration began with a line of progress of the first.
        ("hmp-twice", hmp("migrate tcp:h:1\nmigrate tcp:h:1\n")),
        ("hmp-odd", hmp("\"a b\" 'c\\n' -x\n\u{fc}\ninfo nothing\n\n")),
        ("uri", [&[0][..], b"tcp:[::1]:4444"].concat()),
        ("qmp-query", qmp("{\"execute\":\"query-status\",\"id\":[1,{\"a\":null}]}{\"execute\":\"query-migrate\"}")),
        (
            "qmp-migrate",
            qmp("{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:127.0.0.1:4444\",\"resume\":false}} \
                 {\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":1073741824,\"downtime-limit\":300}}"),
        ),
        (
            "qmp-capabilities",
            qmp(
                "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{\"capability\":\"postcopy-ram\",\"state\":true}]}}",
            ),
        ),
        (
            "qmp-channels",
            qmp(
                "{\"execute\":\"migrate\",\"arguments\":{\"channels\":[{\"channel-type\":\"main\",\"addr\":{\"transport\":\"socket\",\"type\":\"inet\",\"host\":\"h\",\"port\":\"1\"}}]}}",
            ),
        ),
        ("qmp-hmp", qmp("{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"info migrate\"}}")),
        ("qmp-odd", qmp("nonsense \"x\\\"\" ]}{\"execute\":1}[[[{}]]] {\"exec-oob\":\"stop\"} \u{1} tru")),
        (
            "qmp-balloon",
            qmp(
                "{\"execute\":\"balloon\",\"arguments\":{\"value\":1e9}}{\"execute\":\"announce-self\",\"arguments\":{\"initial\":50,\"max\":550,\"rounds\":5,\"step\":50,\"interfaces\":[\"net0\"],\"id\":\"a\"}}",
            ),
        ),
    ]
}
