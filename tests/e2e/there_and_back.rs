//! One guest moves ten times in a row.

use serde_json::json;

use crate::support::{Machine, Transport, host};

#[test]
fn ten_moves_in_mixed_modes() {
    if !host::has_kvm_and_uffd() {
        return;
    }
    let machine = Machine::new("96M").cpus(2);
    let mut here = machine.boot_and_begin("ws=48M order=rand write=50 zero=10");
    for turn in 0..10 {
        let transport = if turn % 2 == 0 { Transport::Tcp } else { Transport::Unix };
        let mut there = machine.receive(transport);
        // Precopy, at once, after one pass.
        here.set(json!({"x-postcopy-after": turn % 3 - 1}));
        let uri = there.address();
        here.migrate(&uri);
        here.qmp.await_migration("completed");
        there.qmp.await_migration("completed");
        there.guest.assert_whole();
        assert_eq!(here.quit(), 0);
        here.guest.assert_talk_went_on_in(&there.guest);
        here = there;
    }
    let statistics = here.guest.statistics();
    assert_eq!(statistics["errors"], 0);
    assert_eq!(statistics["tsc_backwards"], 0, "time went back: {statistics}");
    assert_eq!(here.end_guest(), 0);
}
