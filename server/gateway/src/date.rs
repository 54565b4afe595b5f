//! What `Date` says, written once a second.

use model::Time;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// A second and its text.
type Written = (i64, [u8; 29]);

/// The time of day as HTTP has it, as exact as the last request.
pub(crate) struct Date {
    second: AtomicI64,
    written: Mutex<Written>,
}

impl Default for Date {
    fn default() -> Self {
        Self {
            second: AtomicI64::new(0),
            written: Mutex::new(write(0)),
        }
    }
}

impl Date {
    /// It is `now`.
    pub(crate) fn set(&self, now: Time) {
        self.second.store(now.unix_ms().div_euclid(1000), Ordering::Relaxed);
    }

    /// The text, such as `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub(crate) fn text(&self) -> [u8; 29] {
        let second = self.second.load(Ordering::Relaxed);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.0 != second {
            *written = write(second);
        }
        written.1
    }
}

fn write(second: i64) -> Written {
    let since = Duration::from_secs(u64::try_from(second).unwrap_or(0));
    let shown = httpdate::fmt_http_date(UNIX_EPOCH + since);
    let mut text = [b' '; 29];
    for (to, from) in text.iter_mut().zip(shown.bytes()) {
        *to = from;
    }
    (second, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_text() {
        let date = Date::default();
        for (ms, text) in [
            (784_111_777_999, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778_000, "Sun, 06 Nov 1994 08:49:38 GMT"),
        ] {
            date.set(Time::from_unix_ms(ms));
            assert_eq!(std::str::from_utf8(&date.text()), Ok(text));
        }
    }
}
