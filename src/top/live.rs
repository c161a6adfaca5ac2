//! The terminal: drawn on until told to end, and given back as it was.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::Model;
use super::snapshot::Snapshot;
use super::watcher::{News, Watcher};
use super::{TopError, map, screen};
use crate::client::{Connection, QmpAddress};
use crate::signals::{ENDING, remember};

/// How often signals and answers are looked for while no key is pressed.
const LOOK: Duration = Duration::from_millis(50);

/// Gives the terminal back when dropped; a panic does so before its message is written.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = ratatui::try_restore();
    }
}

/// Shows the migration until somebody presses q, or a signal ends it.
pub fn run(qmp: &QmpAddress, interval: Duration) -> Result<(), TopError> {
    let ended = Arc::new(AtomicBool::new(false));
    remember(&ENDING, &ended)?;
    // Before the screen is taken: whoever is not there is said to be so on the plain one.
    let mut vm = Connection::open(qmp)?;
    let mut model = Model::new(qmp.to_string());
    model.saw(Snapshot::take(&mut vm, map::ONCE)?, Duration::ZERO);
    let begun = Instant::now();
    let watcher = Watcher::start(vm, qmp.clone(), interval)?;
    let mut screen = Screen::enter()?;
    while !ended.load(Ordering::Relaxed) {
        while let Ok(news) = watcher.news.try_recv() {
            match news {
                News::Seen(snapshot) => model.saw(*snapshot, begun.elapsed()),
                News::Lost(why) => model.lost(why),
            }
        }
        model.tick(begun.elapsed());
        screen.0.draw(|frame| {
            let area = frame.area();
            watcher.set_cells(screen::map_cells(area));
            screen::draw(&model, area, frame.buffer_mut());
        })?;
        if event::poll(LOOK)? && is_end(&event::read()?) {
            break;
        }
    }
    Ok(())
}

/// Whether the user wants it to end. Ctrl-C is a key here.
fn is_end(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else { return false };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}
