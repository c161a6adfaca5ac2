//! [`Guest`]: the talk with the test guest over the serial port. Its records are described in
//! `tests/guest/src/main.rs`.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::LIMIT;
use super::transcript::Transcript;

/// One line of the test guest's.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// `B`: the visits begin; the whole line.
    Begin(String),
    /// `H`
    Heartbeat(Heartbeat),
    /// `E`: a wrong page; the whole line.
    Damage(String),
    /// `S`
    Statistics(Value),
    /// `V`
    Verified {
        /// Pages looked at.
        pages: u64,
        /// How many were wrong.
        errors: u64,
    },
    /// Anything else.
    Other(String),
}

/// A sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Page visits so far, modulo 2^32.
    pub visits: u32,
    /// Wrong pages so far, at most 255.
    pub errors: u8,
}

impl Record {
    fn parse(line: &str) -> Self {
        let other = || Self::Other(line.to_owned());
        match line.split_at_checked(2) {
            Some(("B ", _)) => Self::Begin(line.to_owned()),
            Some(("H ", rest)) => heartbeat(rest).map_or_else(other, Self::Heartbeat),
            Some(("E ", _)) => Self::Damage(line.to_owned()),
            Some(("S ", json)) => serde_json::from_str(json).map_or_else(|_| other(), Self::Statistics),
            Some(("V ", rest)) => verified(rest).unwrap_or_else(other),
            _ => other(),
        }
    }
}

fn heartbeat(text: &str) -> Option<Heartbeat> {
    let (visits, errors) = text.split_once(' ')?;
    let whole = visits.len() == 8 && errors.len() == 2;
    let beat =
        Heartbeat { visits: u32::from_str_radix(visits, 16).ok()?, errors: u8::from_str_radix(errors, 16).ok()? };
    whole.then_some(beat)
}

fn verified(text: &str) -> Option<Record> {
    let (pages, errors) = text.strip_prefix("pages=")?.split_once(" errors=")?;
    Some(Record::Verified { pages: pages.parse().ok()?, errors: errors.parse().ok()? })
}

/// The test guest as one process hears it.
pub struct Guest {
    input: UnixStream,
    transcript: Transcript,
    read: usize,
    /// The first line of a guest that moved in: most often it began in another process.
    seam: Option<String>,
    moved_in: bool,
    restarted: bool,
    jumps: bool,
    /// `E` lines so far.
    pub damage: Vec<String>,
}

impl Guest {
    /// On a connected serial port. `moved_in`: the guest arrives by migration, perhaps in the
    /// middle of a line.
    pub fn new(stream: UnixStream, moved_in: bool) -> Self {
        let transcript = Transcript::of(stream.try_clone().unwrap());
        Self {
            input: stream,
            transcript,
            read: 0,
            seam: None,
            moved_in,
            restarted: false,
            jumps: false,
            damage: Vec::new(),
        }
    }

    /// The next line, with where the one after it begins.
    fn next_line(&self) -> String {
        let from = self.read;
        let line = self.transcript.wait_for(LIMIT, |said| {
            let rest = &said.bytes[from..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            match end {
                Some(end) => Some(Some(String::from_utf8_lossy(&rest[..end]).into_owned())),
                None => said.ended.then_some(None),
            }
        });
        match line {
            Some(Some(line)) => line,
            Some(None) => panic!("the serial port was closed; the guest's last words:\n{}", self.last_words()),
            None => panic!("the guest is silent for {LIMIT:?}; its last words:\n{}", self.last_words()),
        }
    }

    /// The next record.
    pub fn next_record(&mut self) -> Record {
        if self.moved_in && self.seam.is_none() {
            let line = self.next_line();
            self.read += line.len() + 1;
            self.seam = Some(line);
        }
        let mut line = self.next_line();
        self.read += line.len() + 1;
        if self.restarted
            && let Some(cut) = line.rfind("B whimbrel")
        {
            line.drain(..cut);
            self.restarted = false;
        }
        let record = Record::parse(&line);
        match &record {
            Record::Damage(line) => self.damage.push(line.clone()),
            Record::Other(_) if std::mem::take(&mut self.jumps) => {}
            Record::Other(line) => panic!("the guest says: {line}"),
            _ => {}
        }
        record
    }

    /// Reads on until `find` finds what it looks for.
    pub fn find<T>(&mut self, mut find: impl FnMut(Record) -> Option<T>) -> T {
        loop {
            let record = self.next_record();
            if let Some(found) = find(record) {
                return found;
            }
        }
    }

    /// Waits until the visits begin; the `B` line.
    pub fn await_begin(&mut self) -> String {
        self.find(|record| match record {
            Record::Begin(line) => Some(line),
            _ => None,
        })
    }

    /// Waits for a sign of life that begins after this call: what was said before is skipped.
    pub fn await_heartbeat(&mut self) -> Heartbeat {
        self.skip_to_now();
        self.find(|record| match record {
            Record::Heartbeat(beat) => Some(beat),
            _ => None,
        })
    }

    /// Waits until the guest has made so many visits more.
    pub fn await_visits(&mut self, more: u32) {
        let from = self.await_heartbeat().visits;
        self.find(|record| match record {
            Record::Heartbeat(beat) => (beat.visits.wrapping_sub(from) >= more).then_some(()),
            _ => None,
        });
    }

    /// Takes in all whole lines that are there already.
    fn skip_to_now(&mut self) {
        let bytes = self.transcript.wait_for(LIMIT, |said| Some(said.bytes.len())).unwrap_or(0);
        let whole = self.transcript.text()[..bytes].rfind('\n').map_or(0, |at| at + 1);
        while self.read < whole {
            self.next_record();
        }
    }

    /// Whether nothing at all is said for so long.
    pub fn is_silent_for(&self, time: Duration) -> bool {
        let length = || self.transcript.wait_for(LIMIT, |said| Some(said.bytes.len())).unwrap_or(0);
        let more_than =
            |before: usize| self.transcript.wait_for(time, |said| (said.bytes.len() > before).then_some(()));
        // What was said before may still be on its way here.
        let _ = more_than(length());
        more_than(length()).is_none()
    }

    /// A guest that moved in has not said a word before: there is no line to go on with.
    pub fn begins_here(&mut self) {
        self.moved_in = false;
    }

    /// The machine is about to be reset: the line that is being said will be cut short by the next
    /// boot's first.
    pub fn restarts(&mut self) {
        self.restarted = true;
    }

    /// An earlier state of the guest is about to take its place: a line that is being said may end
    /// as one that was begun then.
    pub fn jumps(&mut self) {
        self.jumps = true;
    }

    /// Sends a command.
    pub fn tell(&mut self, command: char) {
        let mut byte = [0; 1];
        self.input.write_all(command.encode_utf8(&mut byte).as_bytes()).unwrap();
    }

    /// Has the guest look at every byte of its pages; how many pages were wrong.
    pub fn verify(&mut self) -> u64 {
        self.tell('v');
        self.find(|record| match record {
            Record::Verified { errors, .. } => Some(errors),
            _ => None,
        })
    }

    /// The guest's statistics.
    pub fn statistics(&mut self) -> Value {
        self.tell('s');
        self.find(|record| match record {
            Record::Statistics(value) => Some(value),
            _ => None,
        })
    }

    /// Panics unless the guest lives and all it ever saw in its memory was right.
    pub fn assert_whole(&mut self) {
        let wrong = self.verify();
        assert!(wrong == 0 && self.damage.is_empty(), "{wrong} wrong pages: {:#?}", self.damage);
        let beat = self.await_heartbeat();
        assert_eq!(beat.errors, 0, "wrong pages seen by visits: {:#?}", self.damage);
    }

    /// After the process ended: panics if the guest's talk broke when it moved from here to
    /// `there`, by a byte lost or said twice.
    pub fn assert_talk_went_on_in(&self, there: &Self) {
        self.transcript.wait_for_end(LIMIT).expect("the serial port stays open after the process's end");
        let here = self.transcript.text();
        let tail = here.rsplit('\n').next().unwrap_or("");
        let head = there.seam.as_deref().expect("the guest said nothing after it moved");
        let line = format!("{tail}{head}");
        assert!(
            matches!(Record::parse(&line), Record::Heartbeat(Heartbeat { errors: 0, .. })),
            "the talk broke: '{tail}' in the source goes on as '{head}' in the destination"
        );
    }

    /// The end of what was said, for messages.
    fn last_words(&self) -> String {
        let text = self.transcript.text();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}
