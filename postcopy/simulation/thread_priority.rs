//! Fibers have no place of their own among the host's threads.

pub(crate) fn raise_priority() {}

pub(crate) fn lower_priority() {}

pub(crate) fn use_short_slices() {}
