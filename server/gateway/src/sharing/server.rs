//! The way to the server: a connection that was tried, and one question.

use super::config::{RedisConfig, RedisUrl};
use crate::rate::{Gcra, SLACK_NS};
use crate::upstream::connector;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Takes places: see there.
const SCRIPT: &str = include_str!("take.lua");
/// What is asked about when a connection is tried: a limit that refuses nothing.
const TRIAL: &str = "turnpike:rate:trial";
/// Trials of a connection, one of which must be answered in time: the first may meet a moment's delay.
const TRIALS: usize = 3;
/// Longest wait for a connection, all in all: name, TLS, password, script.
const CONNECT_MOST: Duration = Duration::from_secs(2);
const NS_PER_S: u64 = 1_000_000_000;

/// One of these is on every connection, whoever asks.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What moves the bytes of a connection; it ends with it.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("the answer is none to this question")]
    Malformed,
}

/// Where the gateways count together, and how to get there.
pub(super) struct Server {
    url: RedisUrl,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Server {
    /// Reads the authorities.
    ///
    /// # Errors
    /// When they cannot be read, or there can be no certificate for the host; in words.
    pub(super) fn new(config: &RedisConfig) -> Result<Self, String> {
        let url = config.url.clone();
        let tls = match url.has_tls() {
            false => None,
            true => {
                let name = ServerName::try_from(url.host().to_owned());
                let name = name.map_err(|_| format!("{url}: no certificate can be for this host"))?;
                Some((connector(config.ca_file.as_deref()).map_err(|e| e.to_string())?, name))
            }
        };
        Ok(Self { url, tls })
    }

    /// Where it is.
    pub(super) fn url(&self) -> &RedisUrl {
        &self.url
    }

    /// A connection that answered a question within `answer_most`.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub(super) async fn connect(&self, answer_most: Duration) -> Result<(Connection, Driver), String> {
        let url = &self.url;
        let Ok(connected) = timeout(CONNECT_MOST, self.open()).await else {
            return Err(format!("{url} does not answer within {} s", CONNECT_MOST.as_secs()));
        };
        let (connection, mut driver) = connected?;
        let all = Gcra::new(u32::try_from(NS_PER_S).unwrap_or(u32::MAX), 1, u32::MAX);
        for _ in 0..TRIALS {
            let trial = async { connection.ask([(TRIAL, all)].into_iter(), None).await };
            tokio::select! {
                tried = timeout(answer_most, trial) => match tried {
                    Ok(Ok(_)) => return Ok((connection, driver)),
                    Ok(Err(error)) => return Err(format!("{url} cannot be asked: {error}")),
                    Err(_) => {}
                },
                () = &mut driver => return Err(format!("{url} closed the connection")),
            }
        }
        Err(format!(
            "{url} takes longer than {} ms to answer",
            answer_most.as_millis()
        ))
    }

    async fn open(&self) -> Result<(Connection, Driver), String> {
        let url = &self.url;
        let failed = |e: io::Error| format!("{url} cannot be reached: {e}");
        let stream = TcpStream::connect((url.host(), url.port())).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await.map_err(failed)?),
        };
        // Each question has a time limit of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(url.redis(), stream, config).await;
        let (mut redis, driver) = opened.map_err(|e| format!("{url} lets nobody in so: {e}"))?;
        let mut driver: Driver = Box::pin(driver);
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(SCRIPT);
        let loaded = tokio::select! {
            loaded = redis.send_packed_command(&load) => loaded,
            () = &mut driver => return Err(format!("{url} closed the connection")),
        };
        let sha = match loaded {
            Ok(Value::BulkString(sha)) => String::from_utf8(sha).map_err(|_| Unanswered::Malformed.to_string()),
            Ok(Value::ServerError(e)) => Err(e.to_string()),
            Ok(_) => Err(Unanswered::Malformed.to_string()),
            Err(e) => Err(e.to_string()),
        };
        let sha = sha.map_err(|e| format!("{url} does not take the script: {e}"))?;
        Ok((Connection { redis, sha }, driver))
    }
}

/// A connection on which questions follow one another without waiting for answers.
pub(super) struct Connection {
    redis: MultiplexedConnection,
    /// The script's name on the server.
    sha: String,
}

impl Connection {
    /// Takes a place from each of these limits, or from none; how far their arrival times lay ahead before, in nanoseconds.
    /// `at_ns` is the time, where it is not to be the server's.
    pub(super) async fn ask<'a>(
        &self,
        limits: impl ExactSizeIterator<Item = (&'a str, Gcra)> + Clone,
        at_ns: Option<u64>,
    ) -> Result<Vec<u64>, Unanswered> {
        let mut redis = self.redis.clone();
        let asked = command(("EVALSHA", &self.sha), limits.clone(), at_ns);
        let answer = match told(redis.send_packed_command(&asked).await) {
            // The server was started anew behind something that keeps connections, or was told to forget scripts.
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let asked = command(("EVAL", SCRIPT), limits.clone(), at_ns);
                told(redis.send_packed_command(&asked).await)?
            }
            answer => answer?,
        };
        leads(&answer, limits).ok_or(Unanswered::Malformed)
    }
}

/// An error that the server tells is one.
fn told(answer: Result<Value, RedisError>) -> Result<Value, RedisError> {
    answer.and_then(Value::extract_error)
}

fn command<'a>(
    (verb, script): (&str, &str),
    limits: impl ExactSizeIterator<Item = (&'a str, Gcra)> + Clone,
    at_ns: Option<u64>,
) -> Cmd {
    let mut cmd = redis::cmd(verb);
    cmd.arg(script).arg(limits.len());
    for (name, _) in limits.clone() {
        cmd.arg(name);
    }
    match at_ns {
        Some(ns) => cmd.arg(ns / NS_PER_S).arg(ns % NS_PER_S),
        None => cmd.arg("").arg(""),
    };
    cmd.arg(SLACK_NS / NS_PER_S);
    for (_, limit) in limits {
        for ns in [limit.every_ns(), limit.most_ns()] {
            cmd.arg(ns / NS_PER_S).arg(ns % NS_PER_S);
        }
    }
    cmd
}

/// What the script answers, which must agree with what follows from it here.
fn leads<'a>(answer: &Value, limits: impl ExactSizeIterator<Item = (&'a str, Gcra)>) -> Option<Vec<u64>> {
    let Value::Array(told) = answer else { return None };
    let number = |value: &Value| match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    };
    let (taken, times) = told.split_first()?;
    if times.len() != 2 * limits.len() {
        return None;
    }
    let lead = |time: &[Value]| {
        let [s, ns] = time else { return None };
        let ns = number(ns).filter(|ns| *ns < NS_PER_S)?;
        number(s)?.checked_mul(NS_PER_S)?.checked_add(ns)
    };
    let leads: Vec<u64> = times.chunks(2).map(lead).collect::<Option<_>>()?;
    let all_pass = limits.zip(&leads).all(|((_, limit), lead)| limit.told(*lead).allowed);
    (number(taken)? == u64::from(all_pass)).then_some(leads)
}
