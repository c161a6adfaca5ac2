//! `info block` and `query-block`, in QEMU's words as far as they apply.

use serde_json::{Value, json};

use crate::block::DiskInfo;

/// For people: some lines a disk.
pub fn info_block(disks: &[DiskInfo]) -> String {
    disks.iter().enumerate().map(|(index, disk)| lines(index, disk)).collect()
}

fn lines(index: usize, disk: &DiskInfo) -> String {
    let config = &disk.config;
    let read_only = if config.read_only { ", read-only" } else { "" };
    let mut text = format!("disk{index}: {} ({}{read_only})\n", config.path.display(), config.format.name());
    if !config.serial.is_empty() {
        text.push_str(&format!("    Serial number:    {}\n", config.serial));
    }
    let Some(opened) = &disk.opened else {
        return text + "    Not open:         the guest that has it is not here\n";
    };
    text.push_str(&format!("    Capacity:         {} bytes\n", opened.capacity));
    if let Some(backing) = opened.backing.first() {
        let depth = opened.backing.len();
        text.push_str(&format!("    Backing file:     {} (chain depth: {depth})\n", backing.display()));
    }
    text
}

/// For programs.
pub fn query_block(disks: &[DiskInfo]) -> Value {
    disks.iter().enumerate().map(|(index, disk)| object(index, disk)).collect()
}

fn object(index: usize, disk: &DiskInfo) -> Value {
    let config = &disk.config;
    let file = config.path.display().to_string();
    let mut inserted = json!({
        "file": file,
        "node-name": format!("disk{index}"),
        "drv": config.format.name(),
        "ro": config.read_only,
        "active": disk.opened.is_some(),
        // What is below has no name of its own.
        "children": [],
        "encrypted": false,
        "detect_zeroes": "off",
        "write_threshold": 0,
        "backing_file_depth": disk.opened.as_ref().map_or(0, |it| it.backing.len()),
        "cache": {"writeback": true, "direct": false, "no-flush": false},
    });
    for limit in ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"] {
        inserted[limit] = 0.into();
    }
    // Nobody has looked into one that is not open.
    let size = disk.opened.as_ref().map_or(0, |opened| opened.capacity);
    let mut image = json!({"filename": file, "format": config.format.name(), "virtual-size": size});
    if let Some(backing) = disk.opened.as_ref().and_then(|opened| opened.backing.first()) {
        let backing = Value::from(backing.display().to_string());
        inserted["backing_file"] = backing.clone();
        image["full-backing-filename"] = backing;
    }
    inserted["image"] = image;
    json!({
        "device": format!("disk{index}"),
        "type": "unknown",
        "removable": false,
        "locked": false,
        "inserted": inserted,
    })
}

#[cfg(test)]
pub(super) use tests::disks as sample;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Opened;
    use crate::config::{DiskConfig, ImageFormat};

    pub(in crate::monitor) fn disks() -> [DiskInfo; 2] {
        let config = DiskConfig {
            path: "/d/a".into(),
            format: ImageFormat::Qcow2,
            read_only: false,
            backing_format: None,
            serial: "S1".into(),
        };
        let closed = DiskConfig {
            path: "/d/b".into(),
            format: ImageFormat::Raw,
            read_only: true,
            backing_format: None,
            serial: String::new(),
        };
        let opened = Opened { capacity: 4096, backing: vec!["/d/base".into(), "/d/root".into()] };
        [DiskInfo { config, opened: Some(opened) }, DiskInfo { config: closed, opened: None }]
    }

    #[test]
    fn for_people() {
        assert_eq!(
            info_block(&disks()),
            "disk0: /d/a (qcow2)\n\
             \x20   Serial number:    S1\n\
             \x20   Capacity:         4096 bytes\n\
             \x20   Backing file:     /d/base (chain depth: 2)\n\
             disk1: /d/b (raw, read-only)\n\
             \x20   Not open:         the guest that has it is not here\n"
        );
        assert_eq!(info_block(&[]), "");
    }

    #[test]
    fn for_programs() {
        let cache = json!({"writeback": true, "direct": false, "no-flush": false});
        let unlimited = |mut disk: Value| {
            for limit in ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"] {
                disk["inserted"][limit] = 0.into();
            }
            disk
        };
        let first = json!({
            "device": "disk0", "type": "unknown", "removable": false, "locked": false,
            "inserted": {
                "file": "/d/a", "node-name": "disk0", "drv": "qcow2", "ro": false, "active": true, "children": [],
                "encrypted": false, "detect_zeroes": "off", "write_threshold": 0, "backing_file": "/d/base",
                "backing_file_depth": 2, "cache": cache,
                "image": {
                    "filename": "/d/a", "format": "qcow2", "virtual-size": 4096, "full-backing-filename": "/d/base",
                },
            },
        });
        let second = json!({
            "device": "disk1", "type": "unknown", "removable": false, "locked": false,
            "inserted": {
                "file": "/d/b", "node-name": "disk1", "drv": "raw", "ro": true, "active": false, "children": [],
                "encrypted": false, "detect_zeroes": "off", "write_threshold": 0, "backing_file_depth": 0, "cache": cache,
                "image": {"filename": "/d/b", "format": "raw", "virtual-size": 0},
            },
        });
        assert_eq!(query_block(&disks()), json!([unlimited(first), unlimited(second)]));
    }
}
