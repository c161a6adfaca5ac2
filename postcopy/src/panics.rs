//! A panic on one of the engine's threads becomes an error of the migration: it pauses or ends with
//! a reason, and no guest waits for a thread that is not there any more.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::MigrationError;

/// Carries out `work` of the thread `thread`. What it left half done is the business of whoever
/// takes the error: the engine's own state is plain values and atomic bits, of which none is set
/// before what it stands for is true.
pub(crate) fn catch<T>(
    thread: &'static str,
    work: impl FnOnce() -> Result<T, MigrationError>,
) -> Result<T, MigrationError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(MigrationError::Panicked { thread, what: said(&*panic).to_owned() }))
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::sentence;

    #[test]
    fn a_panic_is_an_error_that_says_what_it_said() {
        assert_eq!(catch("faults", || Ok(7)).unwrap(), 7);
        assert!(matches!(catch::<()>("faults", || Err(MigrationError::Abandoned)), Err(MigrationError::Abandoned)));
        let number = 7;
        let formatted = catch::<()>("faults", || panic!("page {number}")).unwrap_err();
        assert_eq!(sentence(&formatted), "the migration's faults thread panicked: page 7");
        let plain = catch::<()>("incoming", || panic!("no page")).unwrap_err();
        assert_eq!(sentence(&plain), "the migration's incoming thread panicked: no page");
        let odd = catch::<()>("source", || std::panic::panic_any(7)).unwrap_err();
        assert_eq!(sentence(&odd), "the migration's source thread panicked: without a word");
    }
}
