//! A process that is killed at any of its writes to an image, beside a model of what was answered
//! and flushed. qemu-img is the judge.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::tests::open;
use super::*;
use crate::block::fuse;

/// What the model knows apart, in bytes.
const BLOCK: u64 = 512;
/// What was in an image before: the byte that fills all of a backing file, and what was written to
/// some images.
const BEFORE: u8 = 250;

/// What a block may hold after the process was killed.
#[derive(Clone, Debug, Default)]
struct Held {
    /// As of the last flush that was answered.
    flushed: Vec<u8>,
    /// What was asked for after that, in this order.
    since: Vec<u8>,
    /// Whether the last of that is what it holds if nobody was killed, which a discard does not
    /// say.
    exact: bool,
}

impl Held {
    fn may_be(&self, byte: u8) -> bool {
        self.flushed.contains(&byte) || self.since.contains(&byte)
    }
}

/// Blocks by their number.
#[derive(Clone, Default)]
struct Model(BTreeMap<u64, Held>);

impl Model {
    fn put(&mut self, at: u64, length: u64, byte: Option<u8>, before: u8) {
        for block in at / BLOCK..(at + length) / BLOCK {
            let held = self.0.entry(block).or_insert_with(|| Held { flushed: vec![before], ..Held::default() });
            // A discard leaves what was there, or zeroes.
            held.since.push(byte.unwrap_or(0));
            held.exact = byte.is_some();
        }
    }

    /// What is there stays there.
    fn flush(&mut self, image: &mut Image) {
        for (block, held) in &mut self.0 {
            let byte = uniform(image, *block);
            let last = held.since.last().filter(|_| held.exact);
            assert!(
                last.map_or(held.may_be(byte), |last| *last == byte),
                "block {block} holds {byte} and not {held:?}"
            );
            *held = Held { flushed: vec![byte], ..Held::default() };
        }
    }

    /// After a kill, what is found is what there is.
    fn settle(&mut self, image: &mut Image) {
        for (block, held) in &mut self.0 {
            *held = Held { flushed: vec![uniform(image, *block)], ..Held::default() };
        }
    }

    fn check(&self, image: &mut Image, what: &str) {
        for (block, held) in &self.0 {
            let byte = uniform(image, *block);
            assert!(held.may_be(byte), "{what}: block {block} holds {byte} and not {held:?}");
        }
    }
}

/// The byte that fills a block.
fn uniform(image: &mut Image, block: u64) -> u8 {
    let mut data = [0; BLOCK as usize];
    image.read(block * BLOCK, &mut data).unwrap();
    assert!(data.iter().all(|byte| *byte == data[0]), "block {block} is torn: {data:?}");
    data[0]
}

/// A kind of image.
struct Kind {
    name: &'static str,
    /// For `qemu-img create`, and the disk's size.
    create: &'static [&'static str],
    size: &'static str,
    /// Commands for qemu-io, then arguments of qemu-img behind which the image's name goes.
    fill: &'static [&'static str],
    then: &'static [&'static str],
    /// What the whole disk holds at first.
    before: u8,
    /// Whether its data file is to be a raw image by itself.
    raw: bool,
    /// Where the guest writes, in bytes, and how far from there.
    places: &'static [u64],
    reach: u64,
    /// How many requests, and every how many-th write is the last one.
    requests: u64,
    stride: u64,
}

const SMALL: &[u64] = &[0, 32 << 10, 96 << 10, 200 << 10];
const LARGE: &[u64] = &[0, 600 << 20, 1100 << 20];
const PLAIN: Kind = Kind {
    name: "",
    create: &[],
    size: "256k",
    fill: &[],
    then: &[],
    before: 0,
    raw: false,
    places: SMALL,
    reach: 40 << 10,
    requests: 22,
    stride: 1,
};

fn run(program: &str, arguments: &[&str], room: &Path) -> (Option<i32>, String) {
    let output = Command::new(program).args(arguments).current_dir(room).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Other requests for other numbers in `WHIMBREL_SEED`.
fn seed() -> u64 {
    std::env::var("WHIMBREL_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What the guest asks for with its `step`-th request.
fn request(kind: &Kind, step: u64, image: &mut Image, model: &mut Model) -> Result<bool, BlockError> {
    let draw = |salt: u64, below: u64| {
        let mixed = (seed() * 1000 + step * 4 + salt + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33) % below
    };
    let length = (1 + draw(0, 24)) * BLOCK;
    let at = kind.places[draw(1, kind.places.len() as u64) as usize] + draw(2, kind.reach / BLOCK) * BLOCK;
    let mut put = |byte| model.put(at, length, byte, kind.before);
    match (step % 6, draw(3, 3)) {
        (5, _) => return image.flush().map(|()| true),
        (2 | 4, 0) => put(None),
        (2 | 4, _) => put(Some(0)),
        _ => put(Some(step as u8 + 1)),
    }
    match (step % 6, draw(3, 3)) {
        (2 | 4, 0) => image.discard(at, length)?,
        (2 | 4, 1) => image.write_zeroes(at, length, Zeroes::Unmap)?,
        (2 | 4, _) => image.write_zeroes(at, length, Zeroes::Keep)?,
        _ => image.write(at, &vec![step as u8 + 1; length as usize])?,
    }
    Ok(false)
}

/// Makes requests until the process is "killed". Whether it was.
fn use_until_killed(kind: &Kind, path: &Path, writes: u64, model: &mut Model) -> bool {
    fuse::set(u64::MAX);
    let mut image = open(path, ImageFormat::Qcow2).unwrap();
    fuse::set(writes);
    for step in 0..kind.requests {
        let outcome = request(kind, step, &mut image, model);
        if fuse::left() == 0 {
            break;
        }
        if outcome.unwrap() {
            model.flush(&mut image);
        }
    }
    // Ending writes, too.
    drop(image);
    fuse::left() == 0
}

struct Bench {
    room: TempDir,
    files: Vec<PathBuf>,
}

impl Bench {
    fn new(kind: &Kind) -> Option<Self> {
        if Command::new("qemu-img").arg("--version").output().is_err() {
            crate::skip::skip("qemu-img and qemu-io are not here (Debian: qemu-utils)");
            return None;
        }
        let room = tempfile::tempdir().unwrap();
        fs::create_dir(room.path().join("kept")).unwrap();
        let base = fs::File::create(room.path().join("base.raw")).unwrap();
        base.write_all_at(&[BEFORE; 256 << 10], 0).unwrap();
        let expect = |(code, text): (Option<i32>, String)| assert_eq!(code, Some(0), "{text}");
        expect(run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "base.qcow2"],
            room.path(),
        ));
        let create = match kind.create {
            ["convert", ..] => [kind.create, &["it.qcow2"]].concat(),
            _ => [&["create", "-q", "-f", "qcow2"], kind.create, &["it.qcow2", kind.size]].concat(),
        };
        expect(run("qemu-img", &create, room.path()));
        for command in kind.fill {
            expect(run("qemu-io", &["-f", "qcow2", "-c", command, "it.qcow2"], room.path()));
        }
        if !kind.then.is_empty() {
            expect(run("qemu-img", &[kind.then, &["it.qcow2"]].concat(), room.path()));
        }
        if kind.raw {
            // The bit that says so, which the creation may have set.
            let image = fs::OpenOptions::new().write(true).open(room.path().join("it.qcow2")).unwrap();
            image.write_all_at(&[2], 95).unwrap();
        }
        let files = ["it.qcow2", "it.data"].map(|name| room.path().join(name));
        Some(Self { room, files: files.into_iter().filter(|file| file.exists()).collect() })
    }

    /// The files as they were: with `keep`, keeps that; without, brings it back.
    fn copies(&self, keep: bool) {
        for file in &self.files {
            let kept = self.room.path().join("kept").join(file.file_name().unwrap());
            let (from, to) = if keep { (file, &kept) } else { (&kept, file) };
            fs::copy(from, to).unwrap();
        }
    }

    fn check(&self, what: &str) {
        let (code, text) = run("qemu-img", &["check", "-f", "qcow2", "it.qcow2"], self.room.path());
        // 3 is for leaked clusters.
        assert!(matches!(code, Some(0 | 3)), "{what}: {text}");
    }

    /// Whether qemu-img reads what we read, and the raw data file holds it, if it is to.
    fn compare(&self, image: &mut Image, model: &Model, raw: bool, what: &str) {
        let (code, text) =
            run("qemu-img", &["convert", "-U", "-f", "qcow2", "-O", "raw", "it.qcow2", "flat"], self.room.path());
        assert_eq!(code, Some(0), "{what}: {text}");
        let mut files = vec![fs::File::open(self.room.path().join("flat")).unwrap()];
        files.extend(raw.then(|| fs::File::open(&self.files[1]).unwrap()));
        for file in files {
            for block in model.0.keys() {
                let mut data = [0; BLOCK as usize];
                file.read_exact_at(&mut data, block * BLOCK).unwrap();
                assert_eq!(data, [uniform(image, *block); BLOCK as usize], "{what}: block {block}");
            }
        }
    }
}

fn killed_at_every_write(kind: &Kind) {
    let Some(bench) = Bench::new(kind) else { return };
    bench.copies(true);
    let path = bench.files[0].clone();
    let (mut writes, mut kills) = (0, 0);
    loop {
        let what = format!("{}, killed after {writes} writes", kind.name);
        bench.copies(false);
        let mut model = Model::default();
        let killed = use_until_killed(kind, &path, writes, &mut model);
        fuse::set(u64::MAX);
        bench.check(&what);

        // The next process has what was flushed, and goes on with it without doing harm to it.
        let mut image = open(&path, ImageFormat::Qcow2).unwrap_or_else(|error| panic!("{what}: {}", sentence(&error)));
        model.check(&mut image, &what);
        if kind.raw || writes % (kind.stride * 8) == 0 {
            bench.compare(&mut image, &model, kind.raw, &what);
        }
        model.settle(&mut image);
        for (index, place) in kind.places.iter().rev().enumerate() {
            let at = place + kind.reach - 2 * BLOCK;
            image.write(at, &vec![240 + index as u8; 1024]).unwrap();
            model.put(at, 1024, Some(240 + index as u8), kind.before);
        }
        image.close().unwrap();
        image.open().unwrap();
        model.flush(&mut image);
        image.close().unwrap();
        if writes % (kind.stride * 4) == 0 {
            bench.check(&format!("{what} and opened again"));
        }
        if !killed {
            break;
        }
        writes += kind.stride;
        kills += 1;
    }
    assert!(kills > 10, "{}: only {kills} kills", kind.name);
}

/// Each write fails once, and what was asked for is asked for again, as guests do.
fn failed_at_every_write(kind: &Kind) {
    let Some(bench) = Bench::new(kind) else { return };
    bench.copies(true);
    let path = bench.files[0].clone();
    for writes in (0..).step_by(kind.stride as usize) {
        let what = format!("{}, failed after {writes} writes", kind.name);
        bench.copies(false);
        let mut model = Model::default();
        let mut image = open(&path, ImageFormat::Qcow2).unwrap();
        fuse::fail_after(writes);
        for step in 0..kind.requests {
            match request(kind, step, &mut image, &mut model) {
                Ok(true) => model.flush(&mut image),
                Ok(false) => {}
                Err(_) => {
                    request(kind, step, &mut image, &mut model).unwrap_or_else(|error| panic!("{what}: {error:?}"));
                }
            }
        }
        if image.flush().is_err() {
            image.flush().unwrap();
        }
        let reached = !fuse::was_not_reached();
        image.close().unwrap();
        image.open().unwrap();
        model.flush(&mut image);
        image.close().unwrap();
        bench.check(&what);
        if !reached {
            assert!(writes > 20, "{}: only {writes} writes", kind.name);
            break;
        }
    }
}

#[test]
fn a_write_that_the_host_fails_is_made_up_for() {
    let create = &["-o", "cluster_size=512,refcount_bits=64"];
    failed_at_every_write(&Kind { name: "failed", create, ..PLAIN });
    failed_at_every_write(&Kind { name: "large", size: "1200M", places: LARGE, requests: 12, ..PLAIN });
}

macro_rules! kinds {
    ($($test:ident: $kind:expr;)*) => {
        $(#[test]
        fn $test() {
            killed_at_every_write(&Kind { name: stringify!($test), ..$kind });
        })*
    };
}

kinds! {
    version_3: Kind { create: &["-o", "cluster_size=512"], ..PLAIN };
    version_2: Kind { create: &["-o", "cluster_size=512,compat=0.10"], ..PLAIN };
    large_clusters: Kind { size: "1200M", places: LARGE, requests: 12, stride: 2, ..PLAIN };
    large_clusters_of_version_2: Kind {
        create: &["-o", "compat=0.10"],
        size: "1200M",
        places: LARGE,
        requests: 12,
        stride: 5,
        ..PLAIN
    };
    raw_backing: Kind { create: &["-o", "cluster_size=512", "-b", "base.raw", "-F", "raw"], before: BEFORE, ..PLAIN };
    raw_backing_of_version_2: Kind {
        create: &["-o", "cluster_size=512,compat=0.10", "-b", "base.raw", "-F", "raw"],
        before: BEFORE,
        stride: 3,
        ..PLAIN
    };
    qcow2_backing: Kind { create: &["-o", "cluster_size=4k", "-b", "base.qcow2", "-F", "qcow2"], before: BEFORE, ..PLAIN };
    data_file: Kind { create: &["-o", "cluster_size=512", "-o", "data_file=it.data"], ..PLAIN };
    raw_data_file: Kind {
        create: &["-o", "cluster_size=512", "-o", "data_file=it.data,data_file_raw=on"],
        raw: true,
        stride: 2,
        ..PLAIN
    };
    // As QEMU made them before it mapped all of such a file from the start.
    raw_data_file_that_is_not_mapped: Kind {
        create: &["-o", "cluster_size=512", "-o", "data_file=it.data"],
        raw: true,
        ..PLAIN
    };
    snapshot: Kind {
        create: &["-o", "cluster_size=512"],
        fill: &["write -P 250 0 256k"],
        then: &["snapshot", "-c", "s"],
        before: BEFORE,
        ..PLAIN
    };
    narrow_counts: Kind { create: &["-o", "cluster_size=512,refcount_bits=1"], stride: 3, ..PLAIN };
    wide_counts: Kind { create: &["-o", "cluster_size=512,refcount_bits=64"], ..PLAIN };
    // The refcount table's cluster has no room for what a full disk takes: it moves.
    growing_refcount_table: Kind {
        create: &["-o", "cluster_size=512,refcount_bits=64"],
        size: "4M",
        fill: &["write 0 1700k"],
        places: &[1700 << 10, 2048 << 10, 2600 << 10],
        reach: 400 << 10,
        requests: 60,
        stride: 5,
        ..PLAIN
    };
    compressed: Kind {
        create: &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", "base.raw"],
        before: BEFORE,
        ..PLAIN
    };
}
