//! TLS to upstreams: what a certificate is checked against, and sessions kept for the next connection.

use model::policy::{Protocol, UpstreamTls};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Name of HTTP/2 over TLS (RFC 9113, section 3.2).
const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why connections with TLS cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("{0} cannot be read: {1}")]
    File(String, io::Error),
    #[error("{0} holds no usable PEM: {1}")]
    Pem(String, String),
    #[error("{0:?} is no name that a certificate can be for")]
    Name(String),
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// What TLS is made of, so that a new routing table with the same keeps its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Material {
    name: String,
    protocol: Protocol,
    authorities: Option<Vec<u8>>,
    certificate: Option<(Vec<u8>, Vec<u8>)>,
}

impl Material {
    fn read(host: &str, policy: &UpstreamTls, protocol: Protocol) -> Result<Self, TlsError> {
        let certificate = read(policy.client_certificate_file.as_deref())?;
        let key = read(policy.client_key_file.as_deref())?;
        Ok(Self {
            name: policy.server_name.as_deref().unwrap_or(host).to_owned(),
            protocol,
            authorities: read(policy.ca_file.as_deref())?,
            certificate: certificate.zip(key),
        })
    }
}

/// Makes connections with TLS to one service. Certificates are always checked.
pub(crate) struct TlsClient {
    policy: UpstreamTls,
    host: String,
    material: Material,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        self.material == other.material
    }
}
impl Eq for TlsClient {}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClient")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn read(file: Option<impl AsRef<Path>>) -> Result<Option<Vec<u8>>, TlsError> {
    let read = |f: &Path| std::fs::read(f).map_err(|e| TlsError::File(f.display().to_string(), e));
    file.map(|f| read(f.as_ref())).transpose()
}

/// What connections are made with to a server that is known by its certificate alone.
///
/// # Errors
/// When the file with the authorities cannot be read or holds none.
pub(crate) fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, TlsError> {
    let authorities = read(ca_file)?;
    let shown = ca_file.map_or_else(String::new, |file| file.display().to_string());
    let config = trusting(authorities.as_deref(), &shown)?;
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

/// Certificates are checked against the authorities of a file (`pem`, read from `file`), or those that browsers trust.
fn trusting(pem: Option<&[u8]>, file: &str) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let mut roots = RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in certificates(pem, file)? {
                let added = roots.add(certificate);
                added.map_err(|e| TlsError::Pem(file.to_owned(), e.to_string()))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots))
}

impl TlsClient {
    /// For the upstream with this host. Files are read now; `before` is kept when they hold the same as then.
    pub(crate) fn new(
        host: &str,
        policy: &UpstreamTls,
        protocol: Protocol,
        before: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, TlsError> {
        let material = Material::read(host, policy, protocol)?;
        if let Some(before) = before.filter(|b| b.material == material) {
            return Ok(Arc::clone(before));
        }
        let name = ServerName::try_from(material.name.clone()).map_err(|_| TlsError::Name(material.name.clone()))?;
        let mut config = configure(policy, &material)?;
        config.alpn_protocols = match protocol {
            Protocol::Http1 => vec![ALPN_HTTP1.to_vec()],
            Protocol::Http2 => vec![ALPN_HTTP2.to_vec()],
        };
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Arc::new(Self {
            policy: policy.clone(),
            host: host.to_owned(),
            material,
            name,
            connector,
        }))
    }

    /// Whether its files hold something else by now. One that cannot be read just now has not changed.
    pub(crate) fn is_stale(&self) -> bool {
        match Material::read(&self.host, &self.policy, self.material.protocol) {
            Ok(now) => now != self.material,
            Err(error) => {
                tracing::warn!(%error, "what was read before goes on being used");
                false
            }
        }
    }

    /// Shakes hands. An upstream that shall speak HTTP/2 must say so.
    pub(crate) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let stream = self.connector.connect(self.name.clone(), stream).await?;
        let spoken = stream.get_ref().1.alpn_protocol();
        if self.material.protocol == Protocol::Http2 && spoken != Some(ALPN_HTTP2) {
            return Err(io::Error::other("it does not speak HTTP/2"));
        }
        Ok(stream)
    }
}

fn configure(policy: &UpstreamTls, material: &Material) -> Result<ClientConfig, TlsError> {
    let shown = |file: &Option<String>| file.clone().unwrap_or_default();
    let builder = trusting(material.authorities.as_deref(), &shown(&policy.ca_file))?;
    let Some((certificate, key)) = &material.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate, &shown(&policy.client_certificate_file))?;
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|e| TlsError::Pem(shown(&policy.client_key_file), e.to_string()))?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

fn certificates(pem: &[u8], file: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::Pem(file.to_owned(), why);
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|e| wrong(e.to_string()))?;
    if read.is_empty() {
        return Err(wrong("no certificate in PEM".to_owned()));
    }
    Ok(read)
}
