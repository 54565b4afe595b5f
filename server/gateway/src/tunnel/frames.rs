//! Heads of WebSocket frames (RFC 6455, section 5), read strictly while the bytes pass.
//!
//! Payloads are counted and not looked into: whether text is UTF-8 and what a close frame says is for the two sides. Nothing
//! is kept but a few numbers. A head goes on only when it is whole, so what has passed always ends inside a payload or
//! between two frames, and between two frames a close frame of the gateway's own can follow.

/// Largest payload of a control frame, in bytes (5.5).
const CONTROL_MOST: u64 = 125;
const FINAL: u8 = 0x80;
/// Set in the first frame of a message that permessage-deflate compressed (RFC 7692, section 6).
const COMPRESSED: u8 = 0x40;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;

/// Who sends the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Upstream,
}

/// What holds for the frames of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) side: Side,
    /// Largest payload of a frame, in bytes.
    pub(crate) frame_bytes: u64,
    /// Largest payload of a message's frames together, in bytes.
    pub(crate) message_bytes: u64,
    /// Whether permessage-deflate was agreed on.
    pub(crate) compressed: bool,
}

/// What cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Of the protocol; in words.
    Protocol(&'static str),
    FrameTooLarge,
    MessageTooLarge,
}

/// What may be done with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passed {
    /// So many may go on. What is behind them is the beginning of a head, unless there is a violation.
    pub(crate) bytes: usize,
    /// Frames begun in them that bring a message no further: control frames, and empty parts of a message.
    pub(crate) idle: u32,
    /// What is wrong with the frame that begins behind them.
    pub(crate) violation: Option<Violation>,
}

/// The frames of one direction.
#[derive(Debug)]
pub(crate) struct Frames {
    rules: Rules,
    /// Bytes of the running frame's payload that are to come.
    left: u64,
    /// Bytes that the frames of the running message announced so far.
    message: Option<u64>,
    closed: bool,
}

struct Head {
    opcode: u8,
    is_final: bool,
    /// Of the payload.
    bytes: u64,
    /// Of the head itself.
    size: usize,
}

impl Frames {
    /// Before the first byte.
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            left: 0,
            message: None,
            closed: false,
        }
    }

    /// Whether a close frame was passed, whole.
    pub(crate) fn is_closed(&self) -> bool {
        self.left == 0 && self.closed
    }

    /// Whether a frame of the gateway's own can follow what has passed.
    pub(crate) fn may_be_closed(&self) -> bool {
        self.left == 0 && !self.closed
    }

    /// Looks at bytes that come behind those that have passed.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Passed {
        let mut passed = Passed {
            bytes: 0,
            idle: 0,
            violation: None,
        };
        loop {
            let rest = bytes.get(passed.bytes..).unwrap_or_default();
            let payload = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            passed.bytes += payload;
            self.left -= u64::try_from(payload).unwrap_or(self.left);
            if self.left > 0 {
                return passed;
            }
            match self.head(&rest[payload..]) {
                Ok(None) => return passed,
                Ok(Some(head)) => {
                    passed.bytes += head.size;
                    passed.idle += u32::from(head.is_idle());
                    self.enter(&head);
                }
                Err(violation) => {
                    passed.violation = Some(violation);
                    return passed;
                }
            }
        }
    }

    fn enter(&mut self, head: &Head) {
        self.left = head.bytes;
        self.closed |= head.opcode == CLOSE;
        if !head.is_control() {
            let message = self.message.unwrap_or(0).saturating_add(head.bytes);
            self.message = (!head.is_final).then_some(message);
        }
    }

    /// The head at the beginning of bytes; none while it is not whole. What is wrong with it is said as soon as it shows.
    fn head(&self, bytes: &[u8]) -> Result<Option<Head>, Violation> {
        let &[first, second, ref rest @ ..] = bytes else {
            return Ok(None);
        };
        let (opcode, is_final, short) = (first & 0xF, first & FINAL != 0, second & !MASKED);
        self.check_kind(opcode, is_final, first & RESERVED)?;
        let masked = second & MASKED != 0;
        match (self.rules.side, masked) {
            (Side::Client, false) => return Err(Violation::Protocol("a client's frame must be masked")),
            (Side::Upstream, true) => return Err(Violation::Protocol("a server's frame must not be masked")),
            _ => {}
        }
        let (bytes, long) = match short {
            126 => match rest.first_chunk::<2>() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
                None => return self.check_short(opcode, 126).map(|()| None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return self.check_short(opcode, 127).map(|()| None),
            },
            _ => (u64::from(short), 0),
        };
        let least = [0, 0, 126, 0, 0, 0, 0, 0, 1 << 16][long];
        self.check_short(opcode, short)?;
        if bytes < least || bytes >> 63 != 0 {
            return Err(Violation::Protocol("a length must have its shortest form"));
        }
        let head = Head {
            opcode,
            is_final,
            bytes,
            size: 2 + long + if masked { 4 } else { 0 },
        };
        self.check_size(&head)?;
        Ok((rest.len() + 2 >= head.size).then_some(head))
    }

    fn check_kind(&self, opcode: u8, is_final: bool, reserved: u8) -> Result<(), Violation> {
        let wrong = |words| Err(Violation::Protocol(words));
        let is_first = matches!(opcode, 0x1 | 0x2);
        let may = if self.rules.compressed && is_first {
            COMPRESSED
        } else {
            0
        };
        match opcode {
            _ if self.closed => wrong("nothing follows a close frame"),
            _ if reserved & !may != 0 => wrong("a reserved bit is set"),
            CONTINUATION if self.message.is_none() => wrong("there is no message to continue"),
            0x1 | 0x2 if self.message.is_some() => wrong("the message before it has not ended"),
            0x8..=0xA if !is_final => wrong("a control frame must not be fragmented"),
            CONTINUATION | 0x1 | 0x2 | 0x8..=0xA => Ok(()),
            _ => wrong("the opcode is reserved"),
        }
    }

    /// Checks what a control frame's first length says.
    fn check_short(&self, opcode: u8, short: u8) -> Result<(), Violation> {
        if opcode >= CLOSE && u64::from(short) > CONTROL_MOST {
            return Err(Violation::Protocol("a control frame has at most 125 bytes"));
        }
        if opcode == CLOSE && short == 1 {
            return Err(Violation::Protocol("a close frame has no bytes, or two for its code"));
        }
        Ok(())
    }

    fn check_size(&self, head: &Head) -> Result<(), Violation> {
        if head.is_control() {
            return Ok(());
        }
        if head.bytes > self.rules.frame_bytes {
            return Err(Violation::FrameTooLarge);
        }
        if self.message.unwrap_or(0).saturating_add(head.bytes) > self.rules.message_bytes {
            return Err(Violation::MessageTooLarge);
        }
        Ok(())
    }
}

impl Head {
    fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    fn is_idle(&self) -> bool {
        self.is_control() || (self.bytes == 0 && !self.is_final)
    }
}

/// A close frame; of a client with a mask.
pub(crate) fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let room = usize::try_from(CONTROL_MOST).unwrap_or_default() - 2;
    let reason = &reason[..reason.floor_char_boundary(room)];
    let length = u8::try_from(2 + reason.len()).unwrap_or_default();
    let mut frame = vec![FINAL | CLOSE, length | if mask.is_some() { MASKED } else { 0 }];
    frame.extend(mask.iter().flatten());
    let payload = code.to_be_bytes().into_iter().chain(reason.bytes());
    let mask = mask.unwrap_or_default().into_iter().cycle();
    frame.extend(payload.zip(mask).map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests;
