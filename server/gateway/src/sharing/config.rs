//! Where the gateways count together.

use super::server::Server;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use std::path::PathBuf;
use std::str::FromStr;

/// Longest host name (RFC 1035), in bytes.
const HOST_MOST: usize = 253;

/// A Redis or Valkey through which all gateways share their rate limits.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where it is, and as whom it is asked.
    pub url: RedisUrl,
    /// Authorities in PEM that its certificate is checked against, in place of those that browsers trust.
    pub ca_file: Option<PathBuf>,
}

impl RedisConfig {
    /// Connects and asks as a gateway would.
    ///
    /// # Errors
    /// What would keep gateways from sharing their limits, in words.
    pub async fn check(&self) -> Result<(), String> {
        let server = Server::new(self)?;
        server.connect(super::ANSWER_MOST).await.map(drop)
    }
}

/// `redis://user:password@host:port/database`, or `rediss://` for TLS. Shown without user and password.
#[derive(Clone)]
pub struct RedisUrl {
    host: String,
    port: u16,
    tls: bool,
    redis: RedisConnectionInfo,
}

impl RedisUrl {
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn has_tls(&self) -> bool {
        self.tls
    }

    /// User, password and database.
    pub(super) fn redis(&self) -> &RedisConnectionInfo {
        &self.redis
    }
}

impl std::fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let (host, port, database) = (&self.host, self.port, self.redis.db());
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}/{database}"),
            false => write!(f, "{scheme}://{host}:{port}/{database}"),
        }
    }
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl FromStr for RedisUrl {
    /// Without what is wrong: that may be a secret.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = "redis://user:password@host:port/database or rediss://... (with TLS) is wanted; user, password, port \
                      and database may be missing, and of their characters those that are not letters or digits are \
                      written as in %40";
        let (tls, rest) = match text.strip_prefix("rediss://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("redis://").ok_or(wanted)?),
        };
        if rest.contains(['?', '#', ' ']) {
            return Err(wanted);
        }
        let info: ConnectionInfo = format!("redis://{rest}").into_connection_info().map_err(|_| wanted)?;
        let ConnectionAddr::Tcp(host, port) = info.addr() else {
            return Err(wanted);
        };
        if host.is_empty() || host.len() > HOST_MOST || *port == 0 || info.redis_settings().db() < 0 {
            return Err(wanted);
        }
        Ok(Self {
            host: host.to_owned(),
            port: *port,
            tls,
            redis: info
                .redis_settings()
                .clone()
                .set_lib_name("turnpike", env!("CARGO_PKG_VERSION")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_secrets() {
        for (text, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379/0"),
            ("redis://h:7000/", "redis://h:7000/0"),
            ("redis://:s3cret@h/4", "redis://h:6379/4"),
            ("rediss://user:s3cret%40@h:7000/4", "rediss://h:7000/4"),
            ("redis://[::1]:7000", "redis://[::1]:7000/0"),
        ] {
            let url: RedisUrl = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("s3cret"));
        }
        let url: RedisUrl = "rediss://user:s3cret%40@h".parse().unwrap();
        assert_eq!(
            (url.redis().username(), url.redis().password()),
            (Some("user"), Some("s3cret@"))
        );
        for wrong in [
            "",
            "h:6379",
            "http://h",
            "redis://",
            "redis://h:99999",
            "redis://h:0",
            "redis://h/x",
            "redis://h/-1",
            "redis://h?db=1",
            "redis://h#insecure",
            "redis+unix:///tmp/s3cret",
            "redis://u:s3cret@h:x",
        ] {
            let error = wrong.parse::<RedisUrl>().unwrap_err();
            assert!(error.contains("redis://") && !error.contains("s3cret"), "{wrong}");
        }
    }
}
