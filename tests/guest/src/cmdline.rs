//! The command line: words of `name=value`, every one of which is understood or refused.

use core::fmt;
use core::str::FromStr;

/// In which order a vCPU visits the pages of its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other, again and again.
    Sequential,
    /// Any page, all alike.
    Random,
    /// Nine visits of ten go to a tenth of the pages.
    Hot,
}

/// What the guest was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `ws=SIZE`: bytes of the working set; `None` for all RAM there is.
    pub working_set: Option<u64>,
    /// `order=seq|rand|hot`.
    pub order: Order,
    /// `write=PERCENT` of the visits that write.
    pub write_percent: u32,
    /// `rate=N`: visits a second of all vCPUs together; 0 for as many as they can.
    pub rate: u64,
    /// `zero=PERCENT` of the pages that stay zero and are only read.
    pub zero_percent: u32,
    /// `bits=N` of each word of the pages' filler that are random, 1 to 64; the others are zero, so
    /// that pages can be compressed.
    pub bits: u32,
    /// `cpus=N`: how many vCPUs to wait for; `None` for whoever answers.
    pub cpus: Option<u32>,
    /// `tsc_khz=K`: do not measure it.
    pub tsc_khz: Option<u64>,
    /// `beat_us=N`: the time between two signs of life.
    pub beat_us: u64,
    /// `seed=N`: of the pages' contents and of the random orders.
    pub seed: u64,
    /// `beat_bytes=N`: how many bytes of a heartbeat line go out at a time; `None` for what the
    /// monitor's speed allows.
    pub beat_bytes: Option<u64>,
    /// `plant=PAGE`: give this page a wrong generation at its front after the fill, to see the
    /// checker fail.
    pub plant: Option<u64>,
    /// `plant_word=PAGE`: damage this page's middle, where only a full verification looks; use with
    /// `write=0`.
    pub plant_word: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            working_set: None,
            order: Order::Random,
            write_percent: 50,
            rate: 0,
            zero_percent: 0,
            bits: 64,
            cpus: None,
            tsc_khz: None,
            beat_us: 1000,
            seed: 1,
            beat_bytes: None,
            plant: None,
            plant_word: None,
        }
    }
}

/// A word that the guest does not understand.
#[derive(Debug, PartialEq, Eq)]
pub struct BadWord<'a>(pub &'a str);

impl fmt::Display for BadWord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command line: cannot make sense of '{}'", self.0)
    }
}

impl Options {
    /// Reads the whole line. The first word that makes no sense is the error.
    pub fn parse(line: &str) -> Result<Self, BadWord<'_>> {
        let mut options = Self::default();
        for word in line.split_ascii_whitespace() {
            let known = word.split_once('=').and_then(|(name, value)| options.set(name, value));
            known.ok_or(BadWord(word))?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "ws" => self.working_set = Some(size(value)?),
            "order" => self.order = order(value)?,
            "write" => self.write_percent = within(value, 0, 100)?,
            "rate" => self.rate = number(value)?,
            "zero" => self.zero_percent = within(value, 0, 100)?,
            "bits" => self.bits = within(value, 1, 64)?,
            "cpus" => self.cpus = Some(within(value, 1, 16)?),
            "tsc_khz" => self.tsc_khz = Some(within(value, 1000, 100_000_000)?),
            "beat_us" => self.beat_us = within(value, 10, 10_000_000)?,
            "seed" => self.seed = number(value)?,
            "beat_bytes" => self.beat_bytes = Some(within(value, 1, 14)?),
            "plant" => self.plant = Some(number(value)?),
            "plant_word" => self.plant_word = Some(number(value)?),
            _ => return None,
        }
        Some(())
    }
}

fn number<T: FromStr>(value: &str) -> Option<T> {
    value.parse().ok()
}

fn within<T: FromStr + PartialOrd>(value: &str, least: T, most: T) -> Option<T> {
    number(value).filter(|n| *n >= least && *n <= most)
}

fn order(value: &str) -> Option<Order> {
    match value {
        "seq" => Some(Order::Sequential),
        "rand" => Some(Order::Random),
        "hot" => Some(Order::Hot),
        _ => None,
    }
}

/// Bytes, with a suffix K, M or G (1024-based) or none.
fn size(value: &str) -> Option<u64> {
    let (digits, unit) = match value.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&value[..value.len() - 1], 1 << 10),
        b'M' => (&value[..value.len() - 1], 1 << 20),
        b'G' => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    number::<u64>(digits)?.checked_mul(unit)
}
