//! JSON in pieces, as RFC 8259 has it and not otherwise: what another parser could read differently is an error.
//!
//! Bytes may be cut anywhere, also inside a token: each call gives the next piece of one token. Strings are not decoded
//! and may hold bytes that are no UTF-8; that cannot move a token's end.

/// Deepest nesting. Common parsers stop at 100 to 1000; each level costs one bit here.
const DEPTH_MOST: u32 = 1024;
/// What some servers begin a document with.
const BYTE_ORDER_MARK: &[u8; 3] = b"\xEF\xBB\xBF";

/// The bytes are not the JSON they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// A byte that no JSON has at this place.
    #[error("a byte that no JSON has there")]
    Byte,
    /// Nested too deeply.
    #[error("nesting deeper than {DEPTH_MOST}")]
    TooDeep,
    /// It ended inside a value.
    #[error("its end is missing")]
    CutOff,
    /// White space or a name that would have to be kept back is too long.
    #[error("a name, or white space, that is too long")]
    TooLong,
}

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One value.
    Document,
    /// A value a line.
    Lines,
}

/// A piece of one token, or of the space between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// White space, and a byte order mark in front of everything.
    Space,
    /// `{` or `[`.
    Open { object: bool },
    /// `}` or `]`.
    Close,
    /// `,`
    Comma,
    /// `:`
    Colon,
    /// A part of a member's name with its quotes; whether it is the last one.
    Name { ends: bool },
    /// A part of a string, a number or a literal that is a value.
    Scalar,
}

/// What may come between tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// Right after `[`.
    ValueOrClose,
    /// Right after `{`.
    NameOrClose,
    Name,
    Colon,
    CommaOrClose,
    /// After a whole document: a line's end, or nothing.
    End,
}

/// Where inside a token the last bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Nothing,
    Text { name: bool, escape: Escape },
    Number(Number),
    Literal { word: &'static [u8], read: usize },
    Mark { read: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Begun,
    Hex { left: u8 },
}

/// How far a number has come (RFC 8259, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    fn next(self, byte: u8) -> Option<Self> {
        use Number::*;
        Some(match (self, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') | (Integer, b'0'..=b'9') => Integer,
            (Zero | Integer, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Zero | Integer | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            _ => return None,
        })
    }
    fn may_end(self) -> bool {
        use Number::*;
        matches!(self, Zero | Integer | Fraction | ExponentDigits)
    }
}

/// The kinds of the open containers, a bit each.
#[derive(Debug, Default)]
struct Nesting {
    objects: Vec<u64>,
    depth: u32,
}

impl Nesting {
    fn place(depth: u32) -> (usize, u64) {
        (usize::try_from(depth / 64).unwrap_or(usize::MAX), 1 << (depth % 64))
    }
    fn push(&mut self, object: bool) -> Result<(), Malformed> {
        if self.depth == DEPTH_MOST {
            return Err(Malformed::TooDeep);
        }
        let (word, bit) = Self::place(self.depth);
        if self.objects.len() <= word {
            self.objects.resize(word + 1, 0);
        }
        if let Some(bits) = self.objects.get_mut(word) {
            *bits = if object { *bits | bit } else { *bits & !bit };
        }
        self.depth += 1;
        Ok(())
    }
    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
    /// Whether the innermost container is an object; none outside of all.
    fn object(&self) -> Option<bool> {
        let (word, bit) = Self::place(self.depth.checked_sub(1)?);
        self.objects.get(word).map(|bits| bits & bit != 0)
    }
}

/// Where in a body the last bytes ended.
#[derive(Debug)]
pub(super) struct Lexer {
    form: Form,
    expect: Expect,
    within: Within,
    nesting: Nesting,
    /// Nothing was read yet: a byte order mark may come.
    fresh: bool,
    /// Outside of all values: whether the value before is complete and its line is not.
    line_open: bool,
}

impl Lexer {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            expect: Expect::Value,
            within: Within::Nothing,
            nesting: Nesting::default(),
            fresh: true,
            line_open: false,
        }
    }

    /// The next piece and its length, at least 1. `bytes` must not be empty.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<(Piece, usize), Malformed> {
        match self.within {
            Within::Nothing => self.between(bytes),
            Within::Text { name, escape } => self.text(bytes, 0, name, escape),
            Within::Number(number) => {
                let length = self.number(bytes, number)?;
                if length == 0 {
                    return self.between(bytes);
                }
                Ok((Piece::Scalar, length))
            }
            Within::Literal { word, read } => self.literal(bytes, word, read),
            Within::Mark { read } => self.mark(bytes, read),
        }
    }

    /// Whether the bytes may end here.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        if let Within::Number(number) = self.within
            && number.may_end()
        {
            self.within = Within::Nothing;
            self.value_ended();
        }
        let outside = self.within == Within::Nothing && self.nesting.depth == 0;
        if outside { Ok(()) } else { Err(Malformed::CutOff) }
    }

    fn value_ended(&mut self) {
        self.expect = if self.nesting.depth == 0 {
            self.line_open = true;
            Expect::End
        } else {
            Expect::CommaOrClose
        };
    }

    fn between(&mut self, bytes: &[u8]) -> Result<(Piece, usize), Malformed> {
        let Some(&first) = bytes.first() else {
            return Ok((Piece::Space, 0));
        };
        if matches!(first, b' ' | b'\n' | b'\r' | b'\t') {
            self.fresh = false;
            return self.space(bytes);
        }
        if std::mem::take(&mut self.fresh) && first == BYTE_ORDER_MARK[0] {
            return self.mark(bytes, 0);
        }
        let piece = match (first, self.expect) {
            (b'"', Expect::Value | Expect::ValueOrClose) => return self.text(bytes, 1, false, Escape::None),
            (b'"', Expect::Name | Expect::NameOrClose) => return self.text(bytes, 1, true, Escape::None),
            (b'{' | b'[', Expect::Value | Expect::ValueOrClose) => {
                let object = first == b'{';
                self.nesting.push(object)?;
                self.expect = if object {
                    Expect::NameOrClose
                } else {
                    Expect::ValueOrClose
                };
                Piece::Open { object }
            }
            (b'}', Expect::NameOrClose | Expect::CommaOrClose) if self.nesting.object() == Some(true) => self.close(),
            (b']', Expect::ValueOrClose | Expect::CommaOrClose) if self.nesting.object() == Some(false) => self.close(),
            (b',', Expect::CommaOrClose) => {
                let object = self.nesting.object() == Some(true);
                self.expect = if object { Expect::Name } else { Expect::Value };
                Piece::Comma
            }
            (b':', Expect::Colon) => {
                self.expect = Expect::Value;
                Piece::Colon
            }
            (_, Expect::Value | Expect::ValueOrClose) => return self.bare(bytes, first),
            _ => return Err(Malformed::Byte),
        };
        Ok((piece, 1))
    }

    fn close(&mut self) -> Piece {
        self.nesting.pop();
        self.value_ended();
        Piece::Close
    }

    fn space(&mut self, bytes: &[u8]) -> Result<(Piece, usize), Malformed> {
        let blank = |b: &u8| matches!(b, b' ' | b'\n' | b'\r' | b'\t');
        let length = bytes.iter().position(|b| !blank(b)).unwrap_or(bytes.len());
        if self.form == Form::Lines && bytes.iter().take(length).any(|b| matches!(b, b'\n' | b'\r')) {
            if self.nesting.depth > 0 {
                return Err(Malformed::Byte);
            }
            if std::mem::take(&mut self.line_open) {
                self.expect = Expect::Value;
            }
        }
        Ok((Piece::Space, length))
    }

    fn mark(&mut self, bytes: &[u8], read: usize) -> Result<(Piece, usize), Malformed> {
        let wanted = BYTE_ORDER_MARK.get(read..).unwrap_or_default();
        let length = wanted.len().min(bytes.len());
        if wanted.get(..length) != bytes.get(..length) {
            return Err(Malformed::Byte);
        }
        self.within = if length == wanted.len() {
            Within::Nothing
        } else {
            Within::Mark { read: read + length }
        };
        Ok((Piece::Space, length))
    }

    /// The rest of a string, from `start`, where its opening quote is behind us.
    fn text(
        &mut self,
        bytes: &[u8],
        start: usize,
        name: bool,
        mut escape: Escape,
    ) -> Result<(Piece, usize), Malformed> {
        for (at, &byte) in bytes.iter().enumerate().skip(start) {
            escape = match (escape, byte) {
                (Escape::None, b'"') => {
                    self.within = Within::Nothing;
                    if !name {
                        self.value_ended();
                        return Ok((Piece::Scalar, at + 1));
                    }
                    self.expect = Expect::Colon;
                    return Ok((Piece::Name { ends: true }, at + 1));
                }
                (Escape::None, b'\\') => Escape::Begun,
                (_, 0..0x20) => return Err(Malformed::Byte),
                (Escape::None, _) => Escape::None,
                (Escape::Begun, b'u') => Escape::Hex { left: 4 },
                (Escape::Begun, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Escape::None,
                (Escape::Hex { left: 1 }, b) if b.is_ascii_hexdigit() => Escape::None,
                (Escape::Hex { left }, b) if b.is_ascii_hexdigit() => Escape::Hex { left: left - 1 },
                _ => return Err(Malformed::Byte),
            };
        }
        self.within = Within::Text { name, escape };
        let piece = if name {
            Piece::Name { ends: false }
        } else {
            Piece::Scalar
        };
        Ok((piece, bytes.len()))
    }

    /// A number or a literal from its first byte.
    fn bare(&mut self, bytes: &[u8], first: u8) -> Result<(Piece, usize), Malformed> {
        let word: &'static [u8] = match first {
            b't' => b"true",
            b'f' => b"false",
            b'n' => b"null",
            b'-' | b'0'..=b'9' => {
                let begun = match first {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Integer,
                };
                let more = self.number(bytes.get(1..).unwrap_or_default(), begun)?;
                return Ok((Piece::Scalar, more + 1));
            }
            _ => return Err(Malformed::Byte),
        };
        self.literal(bytes, word, 0)
    }

    /// How many bytes belong to a number; it has ended when there are bytes left.
    fn number(&mut self, bytes: &[u8], mut number: Number) -> Result<usize, Malformed> {
        for (at, &byte) in bytes.iter().enumerate() {
            match number.next(byte) {
                Some(next) => number = next,
                None if number.may_end() => {
                    self.within = Within::Nothing;
                    self.value_ended();
                    return Ok(at);
                }
                None => return Err(Malformed::Byte),
            }
        }
        self.within = Within::Number(number);
        Ok(bytes.len())
    }

    fn literal(&mut self, bytes: &[u8], word: &'static [u8], read: usize) -> Result<(Piece, usize), Malformed> {
        let wanted = word.get(read..).unwrap_or_default();
        let length = wanted.len().min(bytes.len());
        if wanted.get(..length) != bytes.get(..length) {
            return Err(Malformed::Byte);
        }
        if length == wanted.len() {
            self.within = Within::Nothing;
            self.value_ended();
        } else {
            self.within = Within::Literal {
                word,
                read: read + length,
            };
        }
        Ok((Piece::Scalar, length))
    }
}
