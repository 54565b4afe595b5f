//! Where a head ends.

use super::Invalid;

/// Most empty lines before a head: RFC 9112, section 2.2 asks for one.
const EMPTY_LINES_MOST: usize = 8;

/// Finds the end of a head, and looks at no byte twice.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    looked_at: usize,
    line: usize,
    passed_over: usize,
}

impl Scan {
    /// The length of the head with its empty line, once it is there; `most` bytes at most. Every line ends in CR LF: a
    /// lone LF is the end of a line to some readers and not to others.
    pub(crate) fn end(&mut self, bytes: &[u8], most: usize) -> Result<Option<usize>, Invalid> {
        for at in memchr::memchr_iter(b'\n', &bytes[self.looked_at..]) {
            let end = self.looked_at + at;
            if end == self.line || bytes[end - 1] != b'\r' {
                return Err(Invalid("a line of the head does not end in CR LF"));
            }
            if end == self.line + 1 {
                *self = Self::default();
                return if end < most {
                    Ok(Some(end + 1))
                } else {
                    Err(Invalid("the head is too long"))
                };
            }
            self.line = end + 1;
        }
        self.looked_at = bytes.len();
        if bytes.len() >= most {
            return Err(Invalid("the head is too long"));
        }
        Ok(None)
    }

    /// Counts an empty line before a head that is passed over. A client that sends them for ever sends no request.
    pub(crate) fn pass_over(&mut self) -> Result<(), Invalid> {
        self.passed_over += 1;
        if self.passed_over > EMPTY_LINES_MOST {
            return Err(Invalid("too many empty lines before a request"));
        }
        Ok(())
    }

    /// Whether part of a head was seen.
    pub(crate) fn has_begun(&self) -> bool {
        self.looked_at > 0
    }
}
