//! How a driven migration looks: a bar on a terminal, lines elsewhere, a summary at the end.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::status::Progress;
use crate::size::format_size;
use crate::stdio::say;

/// How often a line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows progress on standard error.
pub enum Display {
    /// A terminal.
    Bar(ProgressBar),
    /// A file or pipe: a line when the status changes, and one each second.
    Lines {
        /// The last line's status.
        status: String,
        /// When it was written.
        at: Instant,
    },
}

impl Display {
    /// What suits standard error.
    pub fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { status: String::new(), at: Instant::now() };
        }
        let bar = ProgressBar::new(0);
        // A template that does not parse would only cost the colours.
        if let Ok(style) = ProgressStyle::with_template("{prefix:16} {wide_bar} {percent:>3}% {msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// Shows where the migration stands.
    pub fn show(&mut self, now: &Progress) {
        let text = figures(now);
        match self {
            Self::Bar(bar) => {
                bar.set_length(now.total.max(1));
                bar.set_position(now.total.saturating_sub(now.remaining));
                bar.set_prefix(now.status.clone());
                bar.set_message(text);
            }
            Self::Lines { status, at } => {
                if *status != now.status || at.elapsed() >= LINE_EVERY {
                    let colon = if text.is_empty() { "" } else { ": " };
                    say(&format!("{}{colon}{text}", now.status));
                    (*status, *at) = (now.status.clone(), Instant::now());
                }
            }
        }
    }

    /// Says something beside the progress.
    pub fn say(&self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| say(text)),
            Self::Lines { .. } => say(text),
        }
    }

    /// Clears the bar.
    pub fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Empty where nothing was sent yet, or nothing came of it: there is nothing to be left then
/// either.
fn figures(now: &Progress) -> String {
    match now.total {
        0 => String::new(),
        _ => {
            let (left, sent) = (format_size(now.remaining), format_size(now.transferred));
            format!("{left} left, {sent} sent, {:.0} Mbps", now.mbps)
        }
    }
}

/// The last words of a migration that completed.
pub fn summary(end: &Progress, where_it_is: &str) -> String {
    let downtime = match end.downtime_ms {
        Some(ms) => format!("{ms} ms"),
        None => "not known".to_owned(),
    };
    format!(
        "{where_it_is}\n\
         total time       {} ms\n\
         downtime         {downtime}\n\
         sent             {}\n\
         pages            {} whole, {} zero, {} on demand\n\
         dirty syncs      {}",
        end.total_ms,
        format_size(end.transferred),
        end.normal,
        end.zero,
        end.requests,
        end.syncs,
    )
}
