use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::*;

/// In the middle of a postcopy, seen from its destination.
fn arriving(total_ms: u64, transferred: u64) -> Snapshot {
    let migrate = json!({
        "status": "postcopy-active", "total-time": total_ms, "downtime": 9,
        "ram": {"transferred": transferred, "remaining": 512 << 20, "total": 2048u64 << 20, "normal": 300_000, "duplicate": 93_216,
                "postcopy-requests": 77, "dirty-sync-count": 1, "page-size": 4096, "mbps": 800.0},
        "x-demand-pages": {"count": 77, "mean-ns": 142_500, "p50-ns": 120_000, "p99-ns": 1_313_000, "max-ns": 7_700_000},
        "postcopy-latency-dist": [0, 1, 2, 3, 4, 5, 60, 1, 0, 0, 1],
        "postcopy-blocktime": 12, "postcopy-vcpu-blocktime": [14, 150],
    });
    let pages = json!({"side": "destination", "page-size": 4096, "pages": 524_288, "arrived": 393_216,
                       "buckets": [131_072, 131_072, 100_000, 31_072]});
    Snapshot::of("bird", "running", migrate, pages)
}

fn model() -> Model {
    let mut model = Model::new("/run/vm.qmp".to_owned());
    model.saw(arriving(1000, 100_000_000), Duration::ZERO);
    model.saw(arriving(1500, 150_000_000), Duration::from_millis(500));
    model
}

fn shown(model: &Model, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| screen::draw(model, frame.area(), frame.buffer_mut())).unwrap();
    terminal.backend().to_string()
}

#[test]
fn the_whole_of_a_postcopy_on_one_screen() {
    let screen = shown(&model(), 110, 24);
    for text in [
        "postcopy-active  bird (destination, guest running)  /run/vm.qmp",
        "75% of 2 GiB, 512 MiB left",
        "time 1.5 s   downtime 9 ms",
        "moved 143 MiB   pages 300000 whole, 93216 zero, 77 on demand   dirty syncs 1",
        "moved 800 Mbps",
        "asked for 0 pages/s",
        "77: p50 120 us, p99 1.3 ms, max 7.7 ms",
        "all at once 12 ms",
        "  1    150 ms ████",
        "pages that have arrived",
        "q quits",
    ] {
        assert!(screen.contains(text), "{text}:\n{screen}");
    }
    // Inside the frame: the first half is there, of the rest half of it more, half of it less.
    let map: String = screen.lines().skip(15).take(7).collect();
    let count = |symbol: char| map.matches(symbol).count();
    assert_eq!(
        (count('█'), count('▓'), count('░'), count('·')),
        (108 * 7 / 2, 108 * 7 / 4, 108 * 7 / 4, 0),
        "{screen}"
    );
}

#[test]
fn latencies_stand_in_rows_by_powers_of_two() {
    let screen = shown(&model(), 110, 24);
    // Eight rows are inside the frame, the first of them for the figures: the quickest are put
    // together.
    let rows: Vec<&str> = screen.lines().filter(|line| line.contains("< ")).collect();
    assert_eq!(rows.len(), 7, "{screen}");
    assert!(rows[0].contains("<  32 us       10"), "{screen}");
    assert!(rows[6].contains("< 2.0 ms        1 █ "), "what is not nothing can be seen:\n{screen}");
}

#[test]
fn a_precopy_shows_what_is_dirtied_against_what_moves() {
    let leaving = |dirty: u64| {
        let ram = json!({"transferred": 1, "remaining": 1, "total": 1000, "mbps": 100.0, "dirty-pages-rate": dirty, "page-size": 4096});
        let mut model = Model::new("tcp:h:1".to_owned());
        let migrate = json!({"status": "active", "expected-downtime": 310, "ram": ram});
        model.saw(Snapshot::of("bird", "running", migrate, json!({"side": "source"})), Duration::ZERO);
        shown(&model, 100, 30)
    };
    assert!(leaving(1000).contains("dirtied 33 Mbps, 33% of that"));
    assert!(leaving(9000).contains("dirtied 295 Mbps, more than moves"));
    assert!(leaving(0).contains("dirtied 0 Mbps "));
    let screen = leaving(1000);
    for text in
        ["expected downtime 310 ms", "99% of 0.98 KiB", "no map of the pages", "none measured here", "not known here"]
    {
        assert!(screen.contains(text), "{text}:\n{screen}");
    }
}

#[test]
fn who_does_not_answer_is_said_not_to() {
    let mut model = model();
    model.tick(Duration::from_millis(1900));
    assert_eq!(model.trouble(), None);
    model.tick(Duration::from_millis(3700));
    assert!(shown(&model, 110, 24).contains("has not answered for 3 s"));
    model.lost("the VM's monitor closed the connection".to_owned());
    let screen = shown(&model, 110, 24);
    assert!(
        screen.contains("gone, the above is what was seen last: the VM's monitor closed the connection"),
        "{screen}"
    );
    assert!(screen.contains("75% of 2 GiB"), "what was seen stays:\n{screen}");
    model.saw(arriving(2000, 160_000_000), Duration::from_secs(9));
    assert_eq!(model.trouble(), None);
}

#[test]
fn every_size_of_screen_and_every_answer_is_drawn() {
    let strange =
        Snapshot::of("", "", json!({"ram": {"total": 1, "remaining": u64::MAX}, "x-demand-pages": 1}), json!([]));
    let endless = json!({"pages": u64::MAX, "buckets": [u64::MAX, "x", -1]});
    let full = json!({"postcopy-blocktime": u64::MAX, "postcopy-vcpu-blocktime": vec![u64::MAX; 300],
                      "postcopy-latency-dist": vec![u64::MAX / 64; 64], "x-demand-pages": {},
                      "total-time": u64::MAX, "ram": {"transferred": u64::MAX, "dirty-pages-rate": u64::MAX, "mbps": 1e300}});
    for snapshot in [Snapshot::default(), strange, Snapshot::of("x", "y", full, endless)] {
        let mut model = Model::new(String::new());
        model.saw(snapshot, Duration::ZERO);
        for (columns, rows) in [(1, 1), (3, 2), (20, 5), (80, 24), (300, 100)] {
            shown(&model, columns, rows);
        }
    }
    let area = Rect::new(0, 0, 0, 0);
    screen::draw(&model(), area, &mut Buffer::empty(area));
}

#[test]
fn a_text_is_the_screen_without_colours() {
    let text = text(&model(), Rect::new(0, 0, 100, 29));
    assert_eq!(text.lines().count(), 29);
    assert!(text.starts_with("postcopy-active  bird") && text.contains('█') && !text.contains('\x1b'), "{text}");
}

#[test]
fn json_is_what_was_answered() {
    let json = arriving(5, 6).to_json();
    assert_eq!((&json["name"], &json["status"]["status"]), (&json!("bird"), &json!("running")));
    assert_eq!((&json["migrate"]["total-time"], &json["pages"]["arrived"]), (&json!(5), &json!(393_216)));
    assert_eq!(Snapshot::default().to_json()["pages"], Value::Null);
}
