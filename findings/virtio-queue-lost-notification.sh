#!/usr/bin/env bash
# Software:  crate virtio-queue 0.18.0 (rust-vmm), with vm-memory 0.18.0
# Guess:     Queue::state() and Queue::try_from(state) carry a queue over: the restored queue answers
#            needs_notification as the saved one would have.
# Happens:   the number of buffers used since the last notification is not in the state. A queue saved
#            between add_used and needs_notification says "no" after the restore where it said "yes" before:
#            the driver waits for that interrupt for ever. Only with VIRTIO_F_EVENT_IDX.
# Where:     virtio-queue src/queue.rs keeps num_added, src/state.rs QueueState has no field for it.
# Meaning:   after a snapshot or a live migration now and then one disk or network request never ends, on a busy
#            queue only. A restore has to notify once for every queue with event_idx.
set -euo pipefail
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
mkdir src
cat > Cargo.toml <<'EOF'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
virtio-queue = "=0.18.0"
vm-memory = { version = "=0.18.0", features = ["backend-mmap"] }
EOF
cat > src/main.rs <<'EOF'
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

fn main() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
    let mut queue = Queue::new(16).unwrap();
    queue.set_size(16);
    queue.set_desc_table_address(Some(0x1000), Some(0));
    queue.set_avail_ring_address(Some(0x2000), Some(0));
    queue.set_used_ring_address(Some(0x3000), Some(0));
    queue.set_event_idx(true);
    queue.set_ready(true);
    // The driver wants to hear of the first buffer: used_event, behind the available ring, is 0.
    memory.write_obj(0u16, GuestAddress(0x2000 + 4 + 2 * 16)).unwrap();
    queue.add_used(&memory, 0, 512).unwrap();

    let mut restored = Queue::try_from(queue.state()).unwrap();
    let after = restored.needs_notification(&memory).unwrap();
    println!("{} {after}", queue.needs_notification(&memory).unwrap());
}
EOF
seen=$(cargo run -q)
echo "software: virtio-queue 0.18.0"
echo "expected: (needs_notification of the queue, of its restored copy) true true"
echo "seen:     $seen"
[[ $seen == 'true false' ]] || { echo "the behaviour has changed"; exit 1; }
