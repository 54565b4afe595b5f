//! TLS for clients: a certificate and its key from PEM files, read again when they change.

use crate::stop::Stop;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Protocols offered in the handshake (RFC 7301), the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where the certificate and its key lie, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those between it and the root, in this order.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads the files as a gateway would.
    ///
    /// # Errors
    /// What would keep a gateway from starting with them.
    pub fn check(&self) -> Result<(), TlsError> {
        read(self).map(drop)
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file holds no usable PEM.
    #[error("cannot read {0}: {1}")]
    File(PathBuf, rustls::pki_types::pem::Error),
    /// The certificate file holds no certificate.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
    /// The key does not belong to the certificate, or is of no known kind.
    #[error("the key does not fit the certificate: {0}")]
    Key(#[from] rustls::Error),
}

/// The certificate in use.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: TlsFiles,
    current: ArcSwap<CertifiedKey>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificates {
    /// Reads the files.
    pub(crate) fn load(files: &TlsFiles) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            current: ArcSwap::from_pointee(read(files)?),
            files: files.clone(),
        }))
    }

    /// What connections are accepted with: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
    pub(crate) fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.iter().map(|p| p.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// Reads the files again whenever they change, until told to stop. Files that are unusable, such as half-written
    /// ones, are tried again at the next look; the last good certificate stays.
    pub(crate) async fn follow(self: Arc<Self>, mut stop: watch::Receiver<Option<Stop>>) {
        let mut known = changed(&self.files);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
            let now = changed(&self.files);
            if now == known {
                continue;
            }
            match read(&self.files) {
                Ok(read) => {
                    self.current.store(Arc::new(read));
                    known = now;
                    tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the changed certificate is unusable; the last good one stays"),
            }
        }
    }
}

fn changed(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    [time(&files.certificate), time(&files.key)]
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let path = &files.certificate;
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| TlsError::File(path.clone(), e))?;
    if chain.is_empty() {
        return Err(TlsError::Empty(path.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| TlsError::File(files.key.clone(), e))?;
    Ok(CertifiedKey::from_der(chain, key, &ring::default_provider())?)
}
