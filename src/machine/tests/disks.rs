//! Whose the disks' images are, all through a migration.

use std::path::Path;

use super::*;
use crate::block::Image;
use crate::config::{DiskConfig, ImageFormat};

fn disk(path: &Path, serial: &str) -> DiskConfig {
    DiskConfig {
        path: path.to_owned(),
        format: ImageFormat::Raw,
        read_only: false,
        backing_format: None,
        serial: serial.into(),
    }
}

fn with_disk(path: &Path, serial: &str) -> MachineConfig {
    let devices = DeviceConfig { disks: vec![disk(path, serial)], ..DeviceConfig::default() };
    MachineConfig { devices, ..config(1) }
}

fn image(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn is_free(path: &Path) -> bool {
    Image::new(&disk(path, "")).unwrap().open().is_ok()
}

#[test]
fn an_image_is_handed_over_at_the_switch_and_back_if_the_guest_stays() {
    if no_kvm() {
        return;
    }
    let file = image(1 << 20);
    let path = file.path();
    let source_rig = rig(with_disk(path, ""), Some(COUNT));
    let source = &source_rig.machine;
    assert!(!is_free(path));
    // Two waiting hosts leave it alone.
    let destination = rig(with_disk(path, ""), None).machine;
    let refuses = rig(with_disk(path, ""), None).machine;
    assert!(source.disks()[0].opened.is_some() && destination.disks()[0].opened.is_none());

    source.cont().unwrap();
    source.prepare_pause();
    let paused = pause(source);
    assert!(!is_free(path));
    let sections = source.save().unwrap();
    assert!(source.disks()[0].opened.is_none() && is_free(path));
    refuses.load(&sections).unwrap();
    assert!(!is_free(path));
    refuses.not_started();
    source.resume(paused).unwrap();
    assert_eq!(source.run_state(), RunState::Running);
    assert!(!is_free(path));

    let paused = pause(source);
    let sections = source.save().unwrap();
    destination.load(&sections).unwrap();
    destination.run(paused.running(), &|| {}).unwrap();
    source.handed_over();
    assert_eq!(destination.disks()[0].opened.as_ref().unwrap().capacity, 1 << 20);
    // What is the destination's now cannot be had again, not even by a reset.
    source.reset().unwrap();
    let error = source.cont().unwrap_err();
    assert!(error.to_string().contains("virtio-blk 0"), "{error}");
    destination.shutdown();
    assert!(is_free(path));
    source.cont().unwrap();
    assert!(!is_free(path));
}

#[test]
fn a_guest_that_was_only_written_down_goes_on_unless_another_host_has_its_disks() {
    if no_kvm() {
        return;
    }
    let file = image(1 << 20);
    let path = file.path();
    let source = rig(with_disk(path, ""), Some(COUNT)).machine;
    source.cont().unwrap();
    for _ in 0..2 {
        let _paused = pause(&source);
        source.save().unwrap();
        source.written_down();
        assert_eq!(source.run_state(), RunState::Postmigrate);
        assert!(is_free(path), "whoever reads the guest can have its disk");
        assert!(source.powerdown().unwrap_err().to_string().contains("cont"));
        let mut other = Image::new(&disk(path, "")).unwrap();
        other.open().unwrap();
        let error = source.cont().unwrap_err();
        assert!(error.to_string().contains("virtio-blk 0"), "{error}");
        assert_eq!(source.run_state(), RunState::Postmigrate);
        drop(other);
        source.cont().unwrap();
        assert_eq!(source.run_state(), RunState::Running);
        assert!(!is_free(path));
    }
    // One that another host has never goes on here, however the one before it had left.
    let _paused = pause(&source);
    source.save().unwrap();
    source.handed_over();
    let error = source.cont().unwrap_err();
    assert!(error.to_string().contains("runs at the destination"), "{error}");
}

#[test]
fn a_source_waits_until_the_destination_has_let_go_and_stands_still_if_it_does_not() {
    if no_kvm() {
        return;
    }
    let file = image(1 << 20);
    let source = rig(with_disk(file.path(), ""), Some(COUNT)).machine;
    source.cont().unwrap();
    let paused = pause(&source);
    source.save().unwrap();
    let mut other = Image::new(&disk(file.path(), "")).unwrap();
    other.open().unwrap();
    let resumed = {
        let source = source.clone();
        std::thread::spawn(move || source.resume(paused).is_ok())
    };
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(source.run_state(), RunState::FinishMigrate);
    other.close().unwrap();
    assert!(resumed.join().unwrap());
    assert_eq!(source.run_state(), RunState::Running);

    let paused = pause(&source);
    source.save().unwrap();
    other.open().unwrap();
    source.resume(paused).unwrap_err();
    assert_eq!(source.run_state(), RunState::Paused);
    source.cont().unwrap_err();
    other.close().unwrap();
    source.cont().unwrap();
}

#[test]
fn a_destination_with_another_disk_is_refused_by_name() {
    if no_kvm() {
        return;
    }
    let (file, larger) = (image(1 << 20), image(2 << 20));
    let source = rig(with_disk(file.path(), "A"), Some(COUNT)).machine;
    let described = source.configuration();
    let swapped = rig(with_disk(larger.path(), "B"), None).machine;
    let error = swapped.check_configuration(&described).unwrap_err().to_string();
    assert!(error.contains("disk.0.serial is A on the source and B on the destination"), "{error}");
    let without = rig(config(1), None).machine;
    let error = without.check_configuration(&described).unwrap_err().to_string();
    assert!(error.contains("device.virtio-blk"), "{error}");

    let other_size = rig(with_disk(larger.path(), "A"), None).machine;
    other_size.check_configuration(&described).unwrap();
    let _paused = pause(&source);
    let error = other_size.load(&source.save().unwrap()).unwrap_err();
    let reason = error.source().unwrap().to_string();
    assert!(reason.contains("2097152") && reason.contains("1048576"), "{reason}");
    assert!(is_free(larger.path()));
}
