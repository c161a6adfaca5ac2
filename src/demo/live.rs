//! [`Live`]: how a move looks while it happens: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::Progress;
use crate::size::format_size;
use crate::stdio::say;

/// How often a line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows one mode's move on standard error.
pub struct Live {
    bar: Option<ProgressBar>,
    mode: &'static str,
    phase: String,
    written: Option<Instant>,
}

impl Live {
    /// For `mode`.
    pub fn new(mode: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            // A template that does not parse would only cost the colours.
            if let Ok(style) = ProgressStyle::with_template("{prefix:9.bold} {bar:16.cyan/dim} {wide_msg}") {
                bar.set_style(style.progress_chars("━━╌"));
            }
            bar.set_prefix(mode);
            bar
        });
        Self { bar, mode, phase: String::new(), written: None }
    }

    /// Shows what happens now and how fast the guest is, in visits per second.
    pub fn phase(&mut self, phase: &str, speed: f64) {
        self.show(phase, &guest(speed));
    }

    /// Shows where the migration stands.
    pub fn migration(&mut self, now: &Progress, speed: f64) {
        if let Some(bar) = &self.bar {
            // Nothing remains before it is known what there is.
            let done = if now.transferred == 0 { 0 } else { now.total.saturating_sub(now.remaining) };
            bar.set_length(now.total.max(1));
            bar.set_position(done);
        }
        self.show(&now.status, &format!("{:>8} sent, {}", format_size(now.transferred), guest(speed)));
    }

    /// Says how it ended and leaves that standing.
    pub fn finish(&mut self, text: &str) {
        match self.bar.take() {
            Some(bar) => {
                bar.finish_and_clear();
                say(&format!("{:9} {text}", self.mode));
            }
            None => say(&format!("{}: {text}", self.mode)),
        }
    }

    fn show(&mut self, phase: &str, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{phase:<15} {text}")),
            None => {
                let due = self.written.is_none_or(|at| at.elapsed() >= LINE_EVERY);
                if due || self.phase != phase {
                    say(&format!("{}: {phase}, {text}", self.mode));
                    self.written = Some(Instant::now());
                }
            }
        }
        if self.phase != phase {
            phase.clone_into(&mut self.phase);
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn guest(speed: f64) -> String {
    match speed {
        0.0 => "guest silent".to_owned(),
        speed => format!("{} visits/s", thousands(speed)),
    }
}

/// A number with separators, rounded.
pub fn thousands(value: f64) -> String {
    HumanCount(value.max(0.0).round_ties_even() as u64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_stand_where_they_should() {
        let texts = [0.4, 999.0, 1000.0, 1_234_567.0, -5.0].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567", "0"]);
    }
}
