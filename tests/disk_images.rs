//! Disk images beside the tools that others use on them: qemu-img and qemu-io in processes of their
//! own.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "e2e/support/skip.rs"]
mod skip;

use std::collections::BTreeMap;
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

fn config(path: &Path, format: ImageFormat, read_only: bool) -> DiskConfig {
    DiskConfig { path: path.to_owned(), format, read_only, backing_format: None, serial: String::new() }
}

fn image(path: &Path, format: ImageFormat, read_only: bool) -> Image {
    Image::new(&config(path, format, read_only)).unwrap()
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

/// Every file of a directory, with its content.
fn contents(room: &TempDir) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(room.path()).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
}

/// Whether QEMU's dirty bitmaps in an image still count, by its header.
fn has_bitmaps(path: &Path) -> bool {
    std::fs::read(path).unwrap()[95] & 1 != 0
}

#[test]
fn what_is_refused_or_only_read_is_not_changed_by_one_byte() {
    let Some(room) = room() else { return };
    create(&room, "base", ImageFormat::Qcow2, &[]);
    create(&room, "odd", ImageFormat::Qcow2, &["-o", "extended_l2=on"]);
    let with_bitmap = |name: &str, more: &[&str]| {
        let path = create(&room, name, ImageFormat::Qcow2, more);
        let (went_well, said) = qemu_img(&["bitmap", "--add", path.to_str().unwrap(), "b0"]);
        assert!(went_well && has_bitmaps(&path), "{said}");
        path
    };
    let marked = |name: &str, at: u64, bytes: &[u8]| {
        let path = with_bitmap(name, &[]);
        patch(&path, at, bytes);
        path
    };
    let base: &[&str] = &["-b", "base", "-F", "qcow2"];
    let orphan = with_bitmap("orphan", base);
    patch(&orphan, std::fs::read(&orphan).unwrap().windows(4).rposition(|it| it == b"base").unwrap() as u64, b"gone");
    let refused = [
        with_bitmap("extended", &["-o", "extended_l2=on"]),
        with_bitmap("zstd", &["-o", "compression_type=zstd"]),
        with_bitmap("on-odd", &["-b", "odd", "-F", "qcow2"]),
        orphan,
        marked("dirty", 79, &[1]),
        marked("corrupt", 79, &[2]),
        marked("unknown", 72, &[0x40]),
        marked("encrypted", 32, &2u32.to_be_bytes()),
        marked("empty", 24, &[0; 8]),
        marked("short", 24, &(1u64 << 40).to_be_bytes()),
    ];
    let fine = with_bitmap("fine", &[]);
    let before = contents(&room);
    let unchanged = |what: &Path| assert!(contents(&room) == before, "{} was changed", what.display());
    for path in &refused {
        let error = image(path, ImageFormat::Qcow2, false).open().unwrap_err().to_string();
        assert!(error.contains(room.path().to_str().unwrap()), "{error}");
        unchanged(path);
    }
    // Somebody reads it.
    let mut reader = image(&fine, ImageFormat::Qcow2, true);
    reader.open().unwrap();
    assert!(matches!(image(&fine, ImageFormat::Qcow2, false).open(), Err(BlockError::Guarded(_))));
    drop(reader);
    // A machine whose second disk is refused has not begun with its first.
    let disks = [&fine, &refused[0]].map(|path| format!("path={},format=qcow2", path.display()));
    let output = Command::new(env!("CARGO_BIN_EXE_whimbrel"))
        .args(["run", "--kernel", "builtin:test", "--memory", "32M", "--serial", "null"])
        .args(["--disk", &disks[0], "--disk", &disks[1]])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    unchanged(&fine);
    let mut disk = image(&fine, ImageFormat::Qcow2, false);
    disk.open().unwrap();
    disk.read(0, &mut [0; 4096]).unwrap();
    disk.flush().unwrap();
    // There is nothing to discard.
    disk.discard(1 << 20, 1 << 20).unwrap();
    disk.close().unwrap();
    image(&fine, ImageFormat::Qcow2, true).open().unwrap();
    unchanged(&fine);
    // And with the first write the bitmaps go.
    disk.open().unwrap();
    disk.write(0, &[1]).unwrap();
    disk.close().unwrap();
    assert!(!has_bitmaps(&fine));
}

#[test]
fn a_data_file_that_is_to_be_raw_by_itself_stays_so() {
    let Some(room) = room() else { return };
    let data = room.path().join("data");
    let option = format!("data_file={},data_file_raw=on", data.display());
    let path = create(&room, "top", ImageFormat::Qcow2, &["-o", &option]);
    let name = path.to_str().unwrap();
    let (went_well, said) = qemu_img(&["bitmap", "--add", name, "b0"]);
    assert!(went_well, "{said}");
    let mut disk = image(&path, ImageFormat::Qcow2, false);
    disk.open().unwrap();
    disk.write(0, &[1; 300_000]).unwrap();
    disk.write(1 << 20, &[2; 300_000]).unwrap();
    disk.write_zeroes(70_000, 100_000, Zeroes::Unmap).unwrap();
    disk.write_zeroes((1 << 20) + 512, 100_000, Zeroes::Keep).unwrap();
    disk.discard((1 << 20) + (128 << 10), 128 << 10).unwrap();
    disk.close().unwrap();
    let (_, said) = qemu_img(&["info", name]);
    assert!(said.contains("data file raw: true"), "{said}");
    assert!(!has_bitmaps(&path));
    let flat = room.path().join("flat");
    let (went_well, said) = qemu_img(&["convert", "-f", "qcow2", "-O", "raw", name, flat.to_str().unwrap()]);
    assert!(went_well, "{said}");
    let (flat, data) = (std::fs::read(flat).unwrap(), std::fs::read(data).unwrap());
    assert!(flat == data);
    assert_eq!((flat[0], flat[70_000], flat[170_000], flat[(1 << 20) + 512]), (1, 0, 1, 0));

    // On a backing file it cannot be kept.
    let based = create(&room, "based", ImageFormat::Qcow2, &["-o", &option.replace("/data,", "/other,")]);
    create(&room, "base", ImageFormat::Raw, &[]);
    let bytes = std::fs::read(&based).unwrap();
    let end = bytes[..65_536].iter().rposition(|byte| *byte != 0).unwrap() as u64 + 64;
    patch(&based, end, b"base");
    patch(&based, 8, &end.to_be_bytes());
    patch(&based, 16, &4u32.to_be_bytes());
    let error = image(&based, ImageFormat::Qcow2, false).open().unwrap_err().to_string();
    assert!(error.contains("data_file_raw"), "{error}");
}

#[test]
fn the_format_of_a_backing_file_is_read_in_version_2_too_or_said_or_asked_for() {
    let Some(room) = room() else { return };
    let raw = create(&room, "raw", ImageFormat::Raw, &[]);
    patch(&raw, 5000, b"raw");
    let qcow2 = create(&room, "qcow2", ImageFormat::Qcow2, &["-o", "compat=0.10", "-b", "raw", "-F", "raw"]);
    let read = |disk: &mut Image| {
        let mut found = [0; 3];
        disk.read(5000, &mut found).unwrap();
        assert_eq!(&found, b"raw");
    };
    for compat in ["compat=0.10", "compat=1.1"] {
        for (base, format) in [("raw", "raw"), ("qcow2", "qcow2")] {
            let more = ["-o", compat, "-b", base, "-F", format];
            let top = create(&room, &format!("{compat}-{base}"), ImageFormat::Qcow2, &more);
            let mut disk = image(&top, ImageFormat::Qcow2, false);
            disk.open().unwrap();
            read(&mut disk);
            disk.write(0, &[7; 4096]).unwrap();
            disk.close().unwrap();

            // As an older QEMU makes them: without the extension that says it.
            let at = std::fs::read(&top).unwrap().windows(4).position(|it| it == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
            patch(&top, at as u64, &0x1234_5678_u32.to_be_bytes());
            let said = |backing_format| {
                Image::new(&DiskConfig { backing_format, ..config(&top, ImageFormat::Qcow2, false) }).unwrap()
            };
            let other = if base == "raw" { ImageFormat::Raw } else { ImageFormat::Qcow2 };
            let mut disk = said(Some(other));
            disk.open().unwrap();
            read(&mut disk);
            drop(disk);
            let error = said(None).open().unwrap_err();
            assert!(matches!(error, BlockError::BackingFormat { .. }), "{error}");
            // What it says to type does what it says.
            let error = error.to_string();
            let command = error.split('\'').find(|it| it.starts_with("qemu-img")).unwrap();
            let command = command.replace("-F raw", &format!("-F {format}"));
            let status = Command::new("sh").arg("-c").arg(&command).status().unwrap();
            assert!(status.success(), "{command}");
            let mut disk = said(None);
            disk.open().unwrap();
            read(&mut disk);
            drop(disk);
            said(Some(other)).open().unwrap();
        }
    }
    // What is said and fits nothing is a mistake.
    for (path, backing_format) in [(room.path().join("compat=1.1-raw"), ImageFormat::Qcow2), (raw, ImageFormat::Raw)] {
        let format = if path.ends_with("raw") { ImageFormat::Raw } else { ImageFormat::Qcow2 };
        let backing_format = Some(backing_format);
        let error =
            Image::new(&DiskConfig { backing_format, ..config(&path, format, false) }).unwrap().open().unwrap_err();
        assert!(matches!(error, BlockError::NoSuchBacking { .. }), "{error}");
    }
    drop(qcow2);
}

/// What the writer of the test below has written: each step's byte goes to some place of 64 KiB.
fn place(step: u64) -> u64 {
    (step * 7919 % 1000) << 20
}

/// Nothing by itself: the process that the next test kills.
#[test]
fn a_writer_for_another_test() {
    let Some(path) = std::env::var_os("WHIMBREL_TEST_WRITER") else { return };
    let mut disk = image(Path::new(&path), ImageFormat::Qcow2, false);
    disk.open().unwrap();
    for step in 0..1_000_000 {
        disk.write(place(step), &[step as u8 | 1; 64 << 10]).unwrap();
        if step > 4 && step % 5 == 0 {
            disk.discard(place(step - 4), 64 << 10).unwrap();
        }
        if step % 3 == 2 {
            disk.flush().unwrap();
            println!("flushed {step}");
        }
    }
}

#[test]
fn a_process_that_is_killed_has_lost_nothing_that_was_flushed() {
    let Some(room) = room() else { return };
    for (round, compat) in ["compat=1.1", "compat=0.10", "compat=1.1", "compat=0.10"].into_iter().enumerate() {
        let path = room.path().join(format!("image{round}"));
        let name = path.to_str().unwrap();
        let (went_well, said) = qemu_img(&["create", "-q", "-f", "qcow2", "-o", compat, name, "1G"]);
        assert!(went_well, "{said}");
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_writer_for_another_test", "--nocapture"])
            .env("WHIMBREL_TEST_WRITER", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut flushed = Vec::new();
        let mut next = || lines.find_map(|line| line.unwrap().split_once("flushed ")?.1.trim().parse::<u64>().ok());
        while flushed.len() < 3 + 7 * round {
            flushed.push(next().unwrap());
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        // It may have gone on for a while.
        flushed.extend(std::iter::from_fn(next));
        let last = *flushed.last().unwrap();
        let check = || {
            let (_, said) = qemu_img(&["check", "-f", "qcow2", name]);
            assert!(!said.contains("ERROR"), "{said}");
        };
        check();
        let mut disk = image(&path, ImageFormat::Qcow2, false);
        disk.open().unwrap();
        let mut found = vec![0; 64 << 10];
        // Somewhere behind the last one was killed; what may have been discarded since says
        // nothing.
        for step in (0..=last).filter(|step| (step + 4) % 5 != 0 && *step + 1000 > last + 200) {
            disk.read(place(step), &mut found).unwrap();
            assert!(found.iter().all(|byte| *byte == step as u8 | 1), "step {step} of {last}");
        }
        disk.write(1001 << 20, &[0xee; 64 << 10]).unwrap();
        disk.write(990 << 20 | 128 << 10, &[0xee; 64 << 10]).unwrap();
        disk.close().unwrap();
        disk.open().unwrap();
        for step in (0..=last).filter(|step| (step + 4) % 5 != 0 && *step + 1000 > last + 200) {
            disk.read(place(step), &mut found).unwrap();
            assert!(found.iter().all(|byte| *byte == step as u8 | 1), "step {step} of {last}");
        }
        drop(disk);
        check();
    }
}
