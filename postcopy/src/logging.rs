//! Log lines that say which migration they are about, on which side and in which phase.
//!
//! The first thread of each side calls [`enter`] as it begins, and starts others with
//! [`carried`]. From then on the lines that they log with the macros of this module carry three
//! key-values of the `log` crate: `migration`, the same short id on both sides (see
//! [`Token::short`](crate::wire::Token::short)), `side`, and `phase`, the status at that moment. A
//! monitor uses the macros in what it implements of [`Guest`](crate::guest::Guest), which the
//! engine calls on its own threads. On any other thread they are those of the `log` crate.

use std::cell::RefCell;
use std::sync::Arc;

use crate::progress::Progress;

/// Which side of a migration a thread works for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that the guest leaves.
    Source,
    /// The side that the guest goes to.
    Destination,
    /// The only side there is where a guest is written and stays.
    Snapshot,
}

impl Side {
    /// `source`, `destination` or `snapshot`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Snapshot => "snapshot",
        }
    }
}

/// What the lines of a thread are about.
#[derive(Clone, Debug)]
pub struct LogContext {
    side: Side,
    progress: Arc<Progress>,
}

thread_local! {
    static CONTEXT: RefCell<Option<LogContext>> = const { RefCell::new(None) };
}

/// From now on what this thread logs is about this side of this migration.
pub fn enter(side: Side, progress: &Arc<Progress>) {
    CONTEXT.set(Some(LogContext { side, progress: progress.clone() }));
}

/// What this thread logs about.
#[doc(hidden)]
pub fn current() -> Option<LogContext> {
    CONTEXT.with_borrow(Clone::clone)
}

/// The work of a thread that this one starts: it logs about the same migration.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let context = current();
    move || {
        CONTEXT.set(context);
        work()
    }
}

impl LogContext {
    /// The migration's id; `-` until both sides know it.
    pub fn migration(&self) -> String {
        self.progress.migration().unwrap_or_else(|| "-".to_owned())
    }

    /// See [`Side::name`].
    pub fn side(&self) -> &'static str {
        self.side.name()
    }

    /// The migration's status.
    pub fn phase(&self) -> &'static str {
        self.progress.status().name()
    }
}

/// `log::log!` with the key-values of this thread's migration.
#[doc(hidden)]
#[macro_export]
macro_rules! log_of_migration {
    ($level:expr, $($text:tt)+) => {
        if $level <= ::log::STATIC_MAX_LEVEL && $level <= ::log::max_level() {
            match $crate::logging::current() {
                Some(of) => ::log::log!(
                    $level, migration = of.migration().as_str(), side = of.side(), phase = of.phase(); $($text)+
                ),
                None => ::log::log!($level, $($text)+),
            }
        }
    };
}

/// As [`log::error!`].
#[macro_export]
macro_rules! log_error {
    ($($text:tt)+) => { $crate::log_of_migration!(::log::Level::Error, $($text)+) };
}

/// As [`log::warn!`].
#[macro_export]
macro_rules! log_warn {
    ($($text:tt)+) => { $crate::log_of_migration!(::log::Level::Warn, $($text)+) };
}

/// As [`log::info!`].
#[macro_export]
macro_rules! log_info {
    ($($text:tt)+) => { $crate::log_of_migration!(::log::Level::Info, $($text)+) };
}

/// As [`log::debug!`].
#[macro_export]
macro_rules! log_debug {
    ($($text:tt)+) => { $crate::log_of_migration!(::log::Level::Debug, $($text)+) };
}

/// As [`log::trace!`].
#[macro_export]
macro_rules! log_trace {
    ($($text:tt)+) => { $crate::log_of_migration!(::log::Level::Trace, $($text)+) };
}

pub use crate::{log_debug as debug, log_error as error, log_info as info, log_trace as trace, log_warn as warn};

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use log::kv::{Key, VisitSource};
    use log::{LevelFilter, Log, Metadata, Record};

    use super::*;
    use crate::logging as log_here;
    use crate::stats::Status;
    use crate::wire::Token;

    /// The lines of this module's test, with their key-values.
    struct Lines(Mutex<Vec<String>>);

    struct Text(String);

    impl<'kvs> VisitSource<'kvs> for Text {
        fn visit_pair(&mut self, key: Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
            self.0 += &format!(" {key}={value}");
            Ok(())
        }
    }

    impl Log for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &Record<'_>) {
            if record.target() == module_path!() {
                let mut text = Text(record.args().to_string());
                record.key_values().visit(&mut text).unwrap();
                self.0.lock().unwrap().push(text.0);
            }
        }

        fn flush(&self) {}
    }

    static LINES: Lines = Lines(Mutex::new(Vec::new()));

    #[test]
    fn a_line_says_of_which_migration_side_and_phase_it_is() {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(LevelFilter::Info);
        let run = |side, token: Token| {
            let progress = Arc::new(Progress::new(1));
            std::thread::spawn(move || {
                enter(side, &progress);
                log_here::info!("begins");
                progress.identify(token.short());
                progress.enter(Status::Active);
                log_here::warn!("page {}", 7);
                log_here::debug!("not enabled");
                std::thread::spawn(carried(|| log_here::error!("helps"))).join().unwrap();
            })
            .join()
            .unwrap();
        };
        run(Side::Source, Token([1; 16]));
        run(Side::Destination, Token([1; 16]));
        run(Side::Source, Token([2; 16]));
        log_here::info!("nobody's");
        let lines = LINES.0.lock().unwrap().clone();
        let (one, other) = (Token([1; 16]).short(), Token([2; 16]).short());
        assert_ne!(one, other);
        let of = |id: &str, side: &str| {
            [
                format!("begins migration=- side={side} phase=setup"),
                format!("page 7 migration={id} side={side} phase=active"),
                format!("helps migration={id} side={side} phase=active"),
            ]
        };
        let expected = [of(&one, "source"), of(&one, "destination"), of(&other, "source")].concat();
        assert_eq!(lines[..9], expected);
        assert_eq!(lines[9..], ["nobody's"]);
    }
}
