//! Disk images beside the tools that others use on them: qemu-img and qemu-io in processes of their own.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/support/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tempfile::TempDir;
use whimbrel::block::{BlockError, Image, Zeroes};
use whimbrel::config::{DiskConfig, ImageFormat};

const SIZE: u64 = 64 << 20;

/// A directory for images; `None` where qemu-img and qemu-io are missing.
fn room() -> Option<TempDir> {
    let there = |tool: &str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
    if there("qemu-img") && there("qemu-io") {
        return Some(tempfile::tempdir().unwrap());
    }
    skip::skip("qemu-img and qemu-io are not here (Debian: qemu-utils)");
    None
}

/// What qemu-img says, and whether it went well.
fn qemu_img(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn create(room: &TempDir, name: &str, format: ImageFormat, more: &[&str]) -> PathBuf {
    let path = room.path().join(name);
    let size = SIZE.to_string();
    let (went_well, said) =
        qemu_img(&[&["create", "-q", "-f", format.name()], more, &[path.to_str().unwrap(), &size]].concat());
    assert!(went_well, "{said}");
    path
}

fn image(path: &Path, format: ImageFormat, read_only: bool) -> Image {
    Image::new(&DiskConfig { path: path.to_owned(), format, read_only, serial: String::new() }).unwrap()
}

/// Another process that has an image open, until it is dropped.
struct Holder {
    process: Child,
    commands: ChildStdin,
}

impl Holder {
    fn new(path: &Path, format: ImageFormat, options: &[&str]) -> Self {
        let mut process = Command::new("qemu-io")
            .args(["-f", format.name()])
            .args(options)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut commands = process.stdin.take().unwrap();
        // It answers when it has opened the image.
        commands.write_all(b"length\n").unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        assert!(answer.contains("64 MiB"), "{answer}");
        Self { process, commands }
    }

    fn end(mut self) {
        self.commands.write_all(b"quit\n").unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

#[test]
fn qemu_img_keeps_away_from_an_image_in_use() {
    let Some(room) = room() else { return };
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let path = create(&room, format.name(), format, &[]);
        let name = path.to_str().unwrap();
        let mut image = image(&path, format, false);
        image.open().unwrap();
        let (went_well, said) = qemu_img(&["info", "-f", format.name(), name]);
        // Of a raw image it only asks the size, and that beside a writer, too: QEMU's own as well.
        assert_eq!(went_well, format == ImageFormat::Raw, "{said}");
        if format == ImageFormat::Qcow2 {
            assert!(said.contains("Failed to get shared \"write\" lock"), "{said}");
            let (went_well, said) = qemu_img(&["check", name]);
            assert!(!went_well && said.contains("Failed to get shared \"write\" lock"), "{said}");
        }
        let (went_well, said) = qemu_img(&["resize", "-f", format.name(), name, "+1M"]);
        assert!(!went_well && said.contains("lock"), "{said}");
        image.close().unwrap();
        let (went_well, said) = qemu_img(&["info", "-f", format.name(), name]);
        assert!(went_well, "{said}");
        let (went_well, said) = qemu_img(&["resize", "-f", format.name(), name, "+1M"]);
        assert!(went_well, "{said}");
    }
}

#[test]
fn an_image_that_another_process_has_is_refused() {
    let Some(room) = room() else { return };
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let path = create(&room, format.name(), format, &[]);
        let mut writer = image(&path, format, false);
        let mut reader = image(&path, format, true);
        let holder = Holder::new(&path, format, &[]);
        assert!(matches!(writer.open(), Err(BlockError::Written(_))));
        assert!(matches!(reader.open(), Err(BlockError::Written(_))));
        holder.end();
        let holder = Holder::new(&path, format, &["-r"]);
        reader.open().unwrap();
        if format == ImageFormat::Qcow2 {
            // A reader of a raw image's bytes minds no writer, but one of qcow2's tables does.
            assert!(matches!(writer.open(), Err(BlockError::Guarded(_))));
        }
        holder.end();
    }
}

#[test]
fn qcow2_is_sound_after_every_kind_of_request() {
    let Some(room) = room() else { return };
    let base = create(&room, "base", ImageFormat::Raw, &[]);
    std::fs::OpenOptions::new().write(true).open(&base).unwrap().write_all(&[5; 1 << 20]).unwrap();
    let backing: &[&str] = &["-b", "base", "-F", "raw"];
    for (name, more) in [("plain", &[][..]), ("overlay", backing), ("old", &["-o", "compat=0.10"])] {
        let path = create(&room, name, ImageFormat::Qcow2, more);
        let mut disk = image(&path, ImageFormat::Qcow2, false);
        disk.open().unwrap();
        let mut expected = vec![if name == "overlay" { 5 } else { 0 }; 1 << 20];
        for step in 0..40_u64 {
            let (at, length) = (step * 26_113 % 900_000, 1 + step * 7919 % 120_000);
            let range = at as usize..(at + length) as usize;
            match step % 4 {
                0 => disk.write_zeroes(at, length, Zeroes::Unmap).unwrap(),
                1 => disk.write_zeroes(at, length, Zeroes::Keep).unwrap(),
                _ => disk.write(at, &vec![step as u8; length as usize]).unwrap(),
            }
            expected[range].fill(if step % 4 < 2 { 0 } else { step as u8 });
            if step % 10 == 9 {
                disk.flush().unwrap();
            }
        }
        disk.discard(2 << 20, 1 << 20).unwrap();
        disk.close().unwrap();
        let (went_well, said) = qemu_img(&["check", "-f", "qcow2", path.to_str().unwrap()]);
        assert!(went_well && said.contains("No errors"), "{name}: {said}");
        // And qemu-img reads what we wrote.
        let flat = room.path().join(format!("{name}.flat"));
        let (went_well, said) =
            qemu_img(&["convert", "-f", "qcow2", "-O", "raw", path.to_str().unwrap(), flat.to_str().unwrap()]);
        assert!(went_well, "{said}");
        let mut found = vec![0; 1 << 20];
        std::fs::File::open(flat).unwrap().read_exact(&mut found).unwrap();
        assert!(found == expected, "{name}");
    }
}

#[test]
fn what_qemu_img_can_put_into_an_image_is_read() {
    let Some(room) = room() else { return };
    let flat = room.path().join("flat");
    std::fs::write(&flat, [7; 1 << 20]).unwrap();
    let packed = room.path().join("packed");
    let arguments = ["convert", "-c", "-f", "raw", "-O", "qcow2", flat.to_str().unwrap(), packed.to_str().unwrap()];
    assert!(qemu_img(&arguments).0);
    let data = room.path().join("data");
    let option = format!("data_file={}", data.display());
    let external = create(&room, "external", ImageFormat::Qcow2, &["-o", &option]);
    let snapshot = create(&room, "snapshot", ImageFormat::Qcow2, &[]);

    for (path, before) in [(&packed, 7), (&external, 0), (&snapshot, 0)] {
        let name = path.to_str().unwrap();
        let mut disk = image(path, ImageFormat::Qcow2, false);
        for round in 1..=2_u8 {
            disk.open().unwrap();
            let mut found = [0xee; 600];
            disk.read(100_000, &mut found).unwrap();
            assert_eq!(found, [if round == 1 { before } else { 1 }; 600], "{name}");
            disk.write(100_000, &[round; 600]).unwrap();
            disk.read(99_999, &mut found[..2]).unwrap();
            assert_eq!(found[..2], [before, round]);
            disk.close().unwrap();
            if path == &snapshot {
                assert!(qemu_img(&["snapshot", "-c", &round.to_string(), name]).0);
            }
            let (went_well, said) = qemu_img(&["check", "-f", "qcow2", name]);
            assert!(went_well && said.contains("No errors"), "{name}: {said}");
        }
    }
    // The data file is the guest's as much as the tables are.
    let mut disk = image(&external, ImageFormat::Qcow2, false);
    disk.open().unwrap();
    let same = image(&data, ImageFormat::Raw, false).open();
    assert!(matches!(same, Err(BlockError::Written(path)) if path == data));
    drop(disk);
    // What the first snapshot holds is untouched by the write after it.
    assert!(qemu_img(&["snapshot", "-a", "1", snapshot.to_str().unwrap()]).0);
    let mut disk = image(&snapshot, ImageFormat::Qcow2, true);
    disk.open().unwrap();
    let mut found = [0; 600];
    disk.read(100_000, &mut found).unwrap();
    assert_eq!(found, [1; 600]);
}
