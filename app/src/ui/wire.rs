//! The one shape in which islands get their data: rows of texts.
//!
//! Every further shape that serde reads is code of its own, and every visitor downloads that code. So what an island
//! is given turns itself into rows and back, and the browser holds a single reader.

/// Rows of texts.
pub type Rows = Vec<Vec<String>>;

/// A row that is read from left to right. A cell that is missing reads as empty.
#[derive(Debug)]
pub struct Cells(std::vec::IntoIter<String>);

impl Cells {
    /// From the first cell on.
    pub fn new(row: Vec<String>) -> Self {
        Self(row.into_iter())
    }
    /// The next cell; none after the last.
    pub fn next_text(&mut self) -> Option<String> {
        self.0.next()
    }
    /// The next cell.
    pub fn text(&mut self) -> String {
        self.0.next().unwrap_or_default()
    }
    /// The next cell as a number; 0 when it is none.
    pub fn number(&mut self) -> u64 {
        self.text().parse().unwrap_or_default()
    }
}
