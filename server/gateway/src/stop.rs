//! How a gateway ends.

use std::time::Duration;

/// The order to end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stop {
    /// Longest time for requests in flight.
    pub(crate) drain: Duration,
    /// Whether another process serves the same sockets from now on. Then nobody needs to notice: an idle connection stays
    /// for one more request, whose answer says that it closes, and the stored snapshot is that process's affair.
    pub(crate) handed_over: bool,
}
