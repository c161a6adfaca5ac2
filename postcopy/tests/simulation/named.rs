//! Schedules by hand.

use whimbrel_postcopy::source::Policy;

use crate::plan::Plan;
use crate::world::{End, play};

#[test]
fn a_precopy_ends_where_nothing_goes_wrong() {
    assert_eq!(play(1, Plan::calm(Policy::Manual)).end, End::MovedByPrecopy);
}

#[test]
fn a_postcopy_serves_the_pages_that_are_touched() {
    assert_eq!(play(1, Plan::calm(Policy::AfterPasses(0))).end, End::MovedByPostcopy);
}

#[test]
fn a_schedule_is_the_same_each_time() {
    let turns = [0; 2].map(|_| play(7, Plan::calm(Policy::AfterPasses(1))).turns);
    assert_eq!(turns[0], turns[1]);
}
