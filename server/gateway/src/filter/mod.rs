//! Fields left out of a JSON document while it streams through.
//!
//! A pure function of bytes, whatever the pieces they come in: `push` what comes, then `end`. A member goes with the
//! white space in front of its name and one comma; everything else leaves byte for byte as it came, white space,
//! spelling of numbers, escapes and order included:
//!
//! ```text
//! {"a": 1, "b": 2, "c": 3}   without b   {"a": 1, "c": 3}
//! {"a": 1, "b": 2, "c": 3}   without a   { "b": 2, "c": 3}
//! ```
//!
//! Names are compared after their escapes are decoded, and every member of that name goes. What is not JSON by the
//! letter of RFC 8259 is an error, and what was pushed since the last good piece never leaves: where two parsers could
//! disagree, a client's could find what was to be left out.
//!
//! Memory is bounded: a bit for each open container, a name with the space in front of it where a path may match, and
//! the steps of the longest path. Values are never kept.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod lexer;
mod paths;
#[cfg(test)]
mod tests;

pub(crate) use lexer::{Form, Malformed};
pub(crate) use paths::{Match, Paths, Place, ROOT};

use lexer::{Lexer, Piece};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Most bytes kept back: a name, and white space around commas.
const HELD_MOST: usize = 64 << 10;

/// Leaves fields out of a document.
#[derive(Debug)]
pub(crate) struct Filter {
    paths: Arc<Paths>,
    /// The gates whose fields go.
    gates: u32,
    lexer: Lexer,
    doing: Doing,
    /// The containers on the way here that a path goes through, innermost last.
    levels: Vec<Level>,
    /// The places of all levels, and behind them those that the next value would be at.
    places: Vec<Place>,
    held: Vec<u8>,
    /// Where the name begins in `held`.
    name_at: Option<usize>,
}

#[derive(Debug)]
struct Level {
    /// Its places.
    places: Range<usize>,
    /// Whether a member or an element was kept: the next one needs the comma in front of it.
    kept: bool,
}

/// What becomes of the next piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Outside of all values, or in front of a value that is kept and may hold what goes.
    Outside,
    /// In front of a member or an element, or behind one that went: what comes is held.
    Deciding,
    /// In a value that is kept whole, this deep, or behind it.
    Keeping { depth: u32 },
    /// In a value that goes, this deep; whether it has begun.
    Dropping { depth: u32, begun: bool },
}

/// Output under construction: bytes kept are copied in runs as long as possible.
struct Sink<'a> {
    bytes: &'a [u8],
    out: &'a mut Vec<u8>,
    run: Range<usize>,
}

impl Sink<'_> {
    fn keep(&mut self, piece: Range<usize>) {
        if self.run.end != piece.start {
            self.flush();
            self.run.start = piece.start;
        }
        self.run.end = piece.end;
    }
    fn flush(&mut self) {
        self.out
            .extend_from_slice(self.bytes.get(self.run.clone()).unwrap_or_default());
        self.run = 0..0;
    }
    fn keep_held(&mut self, held: &mut Vec<u8>) {
        if !held.is_empty() {
            self.flush();
            self.out.append(held);
        }
    }
}

impl Filter {
    /// Leaves out what the paths of these gates name.
    pub(crate) fn new(paths: Arc<Paths>, gates: u32, form: Form) -> Self {
        Self {
            paths,
            gates,
            lexer: Lexer::new(form),
            doing: Doing::Outside,
            levels: Vec::new(),
            places: vec![ROOT],
            held: Vec::new(),
            name_at: None,
        }
    }

    /// Takes the next bytes and adds what is kept to `out`.
    ///
    /// # Errors
    /// When the bytes are no JSON. What was added to `out` by this call must not leave, and the filter is of no more
    /// use.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut sink = Sink { bytes, out, run: 0..0 };
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|r| !r.is_empty()) {
            let (piece, length) = self.lexer.next(rest)?;
            self.piece(piece, at..at + length, &mut sink)?;
            if self.held.len() > HELD_MOST {
                return Err(Malformed::TooLong);
            }
            at += length;
        }
        sink.flush();
        Ok(())
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// When the document is not whole.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        self.lexer.end()
    }

    fn piece(&mut self, piece: Piece, at: Range<usize>, sink: &mut Sink<'_>) -> Result<(), Malformed> {
        match self.doing {
            Doing::Outside => self.outside(piece, at, sink),
            Doing::Deciding => return self.deciding(piece, at, sink),
            Doing::Keeping { depth } => self.keeping(piece, at, depth, sink),
            Doing::Dropping { depth, begun } => return self.dropping(piece, at, depth, begun, sink),
        }
        Ok(())
    }

    /// In front of a value whose places are behind those of the innermost level.
    fn outside(&mut self, piece: Piece, at: Range<usize>, sink: &mut Sink<'_>) {
        sink.keep(at);
        match piece {
            Piece::Open { object } => self.open(object),
            Piece::Scalar => self.after_kept(),
            // Space and colons; the lexer lets nothing else come here.
            _ => {}
        }
    }

    fn open(&mut self, object: bool) {
        let places = self.levels.last().map_or(0, |l| l.places.end)..self.places.len();
        let here = self.places.get(places.clone()).unwrap_or_default();
        if self.paths.enter(here, self.gates, object) {
            self.levels.push(Level { places, kept: false });
            self.doing = Doing::Deciding;
        } else {
            // With no level around it stands at the outermost place, which the next line has too.
            if let Some(level) = self.levels.last() {
                self.places.truncate(level.places.end);
            }
            self.doing = Doing::Keeping { depth: 1 };
        }
    }

    /// The value was kept: its places are done with.
    fn after_kept(&mut self) {
        match self.levels.last() {
            Some(level) => {
                self.places.truncate(level.places.end);
                self.doing = Doing::Keeping { depth: 0 };
            }
            // The next line's value is outermost again.
            None => self.doing = Doing::Outside,
        }
    }

    fn deciding(&mut self, piece: Piece, at: Range<usize>, sink: &mut Sink<'_>) -> Result<(), Malformed> {
        let bytes = sink.bytes.get(at.clone()).unwrap_or_default();
        match piece {
            Piece::Space => self.held.extend_from_slice(bytes),
            Piece::Name { ends } => {
                self.name_at.get_or_insert(self.held.len());
                self.held.extend_from_slice(bytes);
                if ends {
                    return self.name(sink);
                }
            }
            Piece::Comma => self.comma(),
            Piece::Close => self.close(at, sink),
            Piece::Open { .. } | Piece::Scalar => return self.element(piece, at, sink),
            Piece::Colon => {}
        }
        Ok(())
    }

    /// The comma behind a member that went: it stands in front of the next one, if one was kept before.
    fn comma(&mut self) {
        self.held.clear();
        if self.levels.last().is_some_and(|l| l.kept) {
            self.held.push(b',');
        }
        self.doing = Doing::Deciding;
    }

    fn close(&mut self, at: Range<usize>, sink: &mut Sink<'_>) {
        sink.keep_held(&mut self.held);
        sink.keep(at);
        self.levels.pop();
        if self.levels.is_empty() {
            self.places.truncate(1);
        }
        self.after_kept();
    }

    /// A name is whole, and decides whether its member stays.
    fn name(&mut self, sink: &mut Sink<'_>) -> Result<(), Malformed> {
        let raw = self.held.get(self.name_at.take().unwrap_or(0)..).unwrap_or_default();
        let name = decoded(raw).ok_or(Malformed::Byte)?;
        let mut found = Vec::new();
        let matched = self.paths.name(self.here(), name.as_bytes(), self.gates, &mut found);
        self.places.append(&mut found);
        self.decide(matched, sink);
        Ok(())
    }

    /// An element begins; all of an array's elements stay, or all go.
    fn element(&mut self, piece: Piece, at: Range<usize>, sink: &mut Sink<'_>) -> Result<(), Malformed> {
        let mut found = Vec::new();
        let matched = self.paths.element(self.here(), self.gates, &mut found);
        self.places.append(&mut found);
        self.decide(matched, sink);
        self.piece(piece, at, sink)
    }

    /// The places of the innermost level.
    fn here(&self) -> &[Place] {
        let level = self.levels.last().map_or(0..0, |l| l.places.clone());
        self.places.get(level).unwrap_or_default()
    }

    fn decide(&mut self, matched: Match, sink: &mut Sink<'_>) {
        let Some(level) = self.levels.last_mut() else { return };
        if let Match::Ends(_) = matched {
            self.held.clear();
            self.places.truncate(level.places.end);
            self.doing = Doing::Dropping { depth: 0, begun: false };
            return;
        }
        level.kept = true;
        sink.keep_held(&mut self.held);
        self.doing = match matched {
            Match::Below => Doing::Outside,
            _ => Doing::Keeping { depth: 0 },
        };
    }

    fn keeping(&mut self, piece: Piece, at: Range<usize>, depth: u32, sink: &mut Sink<'_>) {
        match piece {
            Piece::Open { .. } => self.doing = Doing::Keeping { depth: depth + 1 },
            Piece::Close if depth == 0 => return self.close(at, sink),
            Piece::Close if depth == 1 && self.levels.is_empty() => self.doing = Doing::Outside,
            Piece::Close => self.doing = Doing::Keeping { depth: depth - 1 },
            Piece::Comma if depth == 0 => return self.comma(),
            _ => {}
        }
        sink.keep(at);
    }

    fn dropping(
        &mut self,
        piece: Piece,
        at: Range<usize>,
        depth: u32,
        begun: bool,
        sink: &mut Sink<'_>,
    ) -> Result<(), Malformed> {
        let (depth, begun) = match piece {
            Piece::Open { .. } => (depth + 1, true),
            Piece::Scalar => (depth, true),
            Piece::Close if depth > 0 => (depth - 1, true),
            Piece::Space | Piece::Comma | Piece::Close if depth == 0 && begun => {
                self.doing = Doing::Deciding;
                return self.deciding(piece, at, sink);
            }
            _ => (depth, begun),
        };
        self.doing = Doing::Dropping { depth, begun };
        Ok(())
    }
}

/// What a name's bytes, quotes included, say; none when they say no text (bytes that are no UTF-8, half a surrogate
/// pair), which clients would read in their own ways.
fn decoded(raw: &[u8]) -> Option<Cow<'_, str>> {
    if raw.contains(&b'\\') {
        return serde_json::from_slice::<String>(raw).ok().map(Cow::Owned);
    }
    let inner = raw.strip_prefix(b"\"").and_then(|r| r.strip_suffix(b"\""))?;
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}
