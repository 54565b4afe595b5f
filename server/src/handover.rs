//! A restart without a gap: the running process gives its listening sockets to its successor over a socket in the data
//! folder, and drains when that says that it serves.
//!
//! ```text
//! successor                      running process
//! "take over" ------------------>
//!              <----------------- names and addresses of the listening sockets, and with them the sockets
//! (reads the snapshot)
//! "ready" ---------------------->
//!              <----------------- "going" (accepts nobody from now on), or "staying" (waited too long for it)
//! (opens)
//!              <----------------- end of the connection: drained, ledger shipped
//! ```
//!
//! Both processes have the same sockets, so a connection waits in the kernel and is never refused. A successor that goes
//! away before it is ready changes nothing. One whose predecessor dies without a word serves in its place.

use crate::output::Failure;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, BufRead as _, BufReader, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Most sockets in one message: the kernel takes 253 (SCM_MAX_FD).
const SOCKETS_MOST: usize = 250;
/// Longest list of their names, in bytes.
const NAMES_MOST: usize = 64 << 10;
/// Longest wait for a word of the other process that it has ready.
const WORD_LIMIT: Duration = Duration::from_secs(10);
/// Longest time that a successor may take until it serves: a million keys take some seconds.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(120);

/// A listening socket: what it is for, the address that it was told to listen on, and itself.
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) socket: TcpListener,
}

fn socket_path(data_dir: &Path, role: &str) -> PathBuf {
    data_dir.join("handover").join(role)
}

/// What a successor got.
pub(crate) struct Heir {
    stream: UnixStream,
    sockets: Vec<(String, SocketAddr, TcpListener)>,
}

impl Heir {
    /// Asks the process that runs on this data folder for its sockets; none when there is no such process.
    pub(crate) fn ask(data_dir: &Path, role: &str) -> Result<Option<Self>, Failure> {
        let path = socket_path(data_dir, role);
        let failed = |e: io::Error| Failure(format!("cannot take over through {}: {e}", path.display()));
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(failed(e)),
        };
        stream.set_read_timeout(Some(WORD_LIMIT)).map_err(failed)?;
        (&stream).write_all(b"take over\n").map_err(failed)?;
        let sockets = receive(&stream).map_err(failed)?;
        Ok(Some(Self { stream, sockets }))
    }

    /// The sockets of this name, where they listen on this address.
    pub(crate) fn take(&mut self, name: &str, address: SocketAddr) -> Vec<TcpListener> {
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for (n, a, socket) in self.sockets.drain(..) {
            if n == name && a == address {
                taken.push(socket);
            } else {
                left.push((n, a, socket));
            }
        }
        self.sockets = left;
        taken
    }

    /// Says that this process can serve; back when the other one has stopped accepting, or is gone.
    ///
    /// # Errors
    /// When the other one goes on.
    pub(crate) fn ready(self) -> io::Result<Predecessor> {
        let told = (&self.stream).write_all(b"ready\n");
        match told.and_then(|()| expect(&self.stream, "going")) {
            Err(e) if !is_gone(&e) => return Err(e),
            _ => {}
        }
        self.stream.set_read_timeout(None)?;
        Ok(Predecessor(self.stream))
    }
}

/// A process that drains.
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Waits until it is gone.
    pub(crate) fn wait(mut self) {
        let mut byte = [0u8; 1];
        while matches!(self.0.read(&mut byte), Ok(1..)) {}
    }
}

/// Held by a process that handed over until it ends.
pub(crate) struct Successor {
    _stream: UnixStream,
}

/// Waits for successors. What comes out of the channel has taken over; `sockets` makes what they get.
///
/// # Errors
/// When the socket in the data folder cannot be made.
pub(crate) fn offer(
    data_dir: &Path,
    role: &str,
    sockets: impl Fn() -> io::Result<Vec<Named>> + Send + Sync + 'static,
) -> io::Result<mpsc::Receiver<Successor>> {
    let path = socket_path(data_dir, role);
    if let Some(folder) = path.parent() {
        // Whoever reaches the socket gets ours: the folder is for this user alone.
        match std::fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let (taken, successors) = mpsc::channel(1);
    let sockets = Arc::new(sockets);
    std::thread::Builder::new().name("handover".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            match stream.and_then(|stream| hand_over(stream, &*sockets)) {
                Ok(successor) => {
                    drop(taken.blocking_send(successor));
                    return;
                }
                Err(error) => tracing::warn!(%error, "a process did not take over; this one goes on"),
            }
        }
    })?;
    Ok(successors)
}

/// Starts this program again, from wherever its name leads by now, to take over from this process. It says itself why it
/// cannot, and then this one goes on.
pub(crate) fn start_successor() {
    let mut arguments = std::env::args_os();
    let Some(program) = arguments.next() else {
        return tracing::error!("cannot start a successor: this process does not know its name");
    };
    let mut command = std::process::Command::new(program);
    command
        .args(arguments.filter(|a| a != "--take-over"))
        .arg("--take-over")
        .stdin(std::process::Stdio::null());
    match command.spawn() {
        Err(error) => tracing::error!(%error, "cannot start a successor"),
        Ok(mut child) => {
            tracing::info!(pid = child.id(), "started a successor");
            std::thread::spawn(move || {
                if let Ok(status) = child.wait() {
                    tracing::error!(%status, "the successor ended");
                }
            });
        }
    }
}

/// Whether the process at the other end ended.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn hand_over(stream: UnixStream, sockets: &dyn Fn() -> io::Result<Vec<Named>>) -> io::Result<Successor> {
    stream.set_read_timeout(Some(WORD_LIMIT))?;
    expect(&stream, "take over")?;
    tracing::info!("another process asks to take over");
    send(&stream, &sockets()?)?;
    stream.set_read_timeout(Some(READY_LIMIT))?;
    if let Err(error) = expect(&stream, "ready") {
        // One that comes to it later after all must not take the silence for our end.
        drop((&stream).write_all(b"staying\n"));
        return Err(error);
    }
    (&stream).write_all(b"going\n")?;
    Ok(Successor { _stream: stream })
}

/// Reads a line byte by byte: what follows it may carry sockets.
fn expect(mut stream: &UnixStream, word: &str) -> io::Result<()> {
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    while line.len() < 64 {
        match stream.read(&mut byte)? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the other process went away",
                ));
            }
            _ if byte[0] == b'\n' => break,
            _ => line.push(byte[0]),
        }
    }
    if line == word.as_bytes() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{word} was expected, and {} came", String::from_utf8_lossy(&line)),
        ))
    }
}

fn send(mut stream: &UnixStream, sockets: &[Named]) -> io::Result<()> {
    if sockets.len() > SOCKETS_MOST {
        return Err(io::Error::other(format!("more than {SOCKETS_MOST} listening sockets")));
    }
    let names: Vec<_> = sockets.iter().map(|s| (s.name, s.address)).collect();
    let mut text = serde_json::to_vec(&names)?;
    text.push(b'\n');
    let fds: Vec<_> = sockets.iter().map(|s| s.socket.as_fd()).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("the sockets do not fit one message"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&text)], &mut control, SendFlags::empty())?;
    stream.write_all(&text[sent..])
}

fn receive(stream: &UnixStream) -> io::Result<Vec<(String, SocketAddr, TcpListener)>> {
    let wrong = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut text = vec![0u8; NAMES_MOST];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    text.truncate(got.bytes);
    if text.last() != Some(&b'\n') {
        BufReader::new(stream.take(NAMES_MOST as u64)).read_until(b'\n', &mut text)?;
    }
    let names: Vec<(String, SocketAddr)> = serde_json::from_slice(&text)?;
    if names.len() != fds.len() {
        return Err(wrong("sockets are missing"));
    }
    let pairs = names.into_iter().zip(fds);
    Ok(pairs
        .map(|((name, address), fd)| (name, address, TcpListener::from(fd)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heir() -> (UnixStream, Heir) {
        let (theirs, stream) = UnixStream::pair().unwrap();
        let sockets = Vec::new();
        (theirs, Heir { stream, sockets })
    }

    #[test]
    fn one_that_has_stopped_accepting_is_waited_for() {
        let (theirs, heir) = heir();
        (&theirs).write_all(b"going\n").unwrap();
        let predecessor = heir.ready().unwrap();
        expect(&theirs, "ready").unwrap();
        drop(theirs);
        predecessor.wait();
    }

    #[test]
    fn one_that_died_is_replaced() {
        let (theirs, one) = heir();
        drop(theirs);
        one.ready().unwrap().wait();
        // And between the two words.
        let (theirs, one) = heir();
        let dying = std::thread::spawn(move || expect(&theirs, "ready"));
        one.ready().unwrap().wait();
        dying.join().unwrap().unwrap();
    }

    #[test]
    fn one_that_goes_on_is_let_go_on() {
        let (theirs, heir) = heir();
        let sending = theirs.try_clone().unwrap();
        let staying = std::thread::spawn(move || {
            expect(&theirs, "take over").unwrap_err();
            (&sending).write_all(b"staying\n").unwrap();
        });
        assert!(heir.ready().is_err());
        staying.join().unwrap();
    }
}
