//! `whimbrel top`: a migration as it goes on, seen through the QMP socket of either side.

mod history;
mod live;
mod map;
mod model;
mod panels;
mod screen;
mod snapshot;
mod watcher;

use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::client::{Connection, QmpAddress, QmpError};
use crate::stdio::{Answer, OutputError};
use model::Model;
use snapshot::Snapshot;

/// How large a screen is where there is none, in columns and rows.
const NO_SCREEN: (u16, u16) = (100, 30);

/// What to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The virtual machine.
    pub qmp: QmpAddress,
    /// In which form.
    pub form: Form,
}

/// How to show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// On the terminal, until told to end.
    Live {
        /// How often the virtual machine is asked.
        interval: Duration,
    },
    /// The same once, as text.
    Text,
    /// Once, as JSON.
    Json,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The monitor, or what it said.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// A live view needs a terminal.
    #[error("standard output is not a terminal; use --once, or --once --json")]
    NoTerminal,
    /// The terminal.
    #[error("the terminal cannot be drawn on")]
    Terminal(#[from] io::Error),
    /// What standard output goes to.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Shows the migration.
pub fn top(options: &Options) -> Result<(), TopError> {
    match options.form {
        Form::Live { .. } if !io::stdout().is_terminal() => Err(TopError::NoTerminal),
        Form::Live { interval } => live::run(&options.qmp, interval),
        Form::Json => {
            let json = look(options, map::ONCE)?.to_json();
            Ok(print(&json.to_string())?)
        }
        Form::Text => {
            let (columns, rows) = ratatui::crossterm::terminal::size().unwrap_or(NO_SCREEN);
            let area = Rect::new(0, 0, columns, rows.saturating_sub(1));
            let snapshot = look(options, u32::from(columns) * u32::from(rows))?;
            let mut model = Model::new(options.qmp.to_string());
            model.saw(snapshot, Duration::ZERO);
            Ok(print(text(&model, area).trim_end_matches('\n'))?)
        }
    }
}

/// All that is printed.
fn print(text: &str) -> Result<(), OutputError> {
    let mut answer = Answer::begin();
    answer.line(text);
    answer.finish()
}

/// One look at the virtual machine.
fn look(options: &Options, buckets: u32) -> Result<Snapshot, QmpError> {
    Snapshot::take(&mut Connection::open(&options.qmp)?, buckets)
}

/// The screen without its colours.
fn text(model: &Model, area: Rect) -> String {
    let mut buffer = Buffer::empty(area);
    screen::draw(model, area, &mut buffer);
    let row = |y| (area.left()..area.right()).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (area.top()..area.bottom()).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests;
