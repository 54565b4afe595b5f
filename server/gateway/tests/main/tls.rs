//! TLS to upstreams: certificates are always checked, and what cannot be used is never used.

use crate::recorder::accept;
use crate::stub::{Deed, Stub};
use crate::support::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, and its key, in PEM.
    fn sign(&self, name: &str, client: bool) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages.push(if client {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        });
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// Writes the authority's certificate into the world's folder.
    pub(crate) fn file(&self, world: &World, name: &str) -> String {
        write(world, name, &self.0.pem())
    }

    pub(crate) fn server(&self, name: &str, protocols: &[&str], clients: Option<&Self>) -> ServerConfig {
        let (certificate, key) = self.sign(name, false);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::clone(clients.0.der())).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        config
    }
}

fn write(world: &World, name: &str, text: &str) -> String {
    let path: PathBuf = world.folder.0.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Serves a stub over TLS; how each handshake went.
async fn serve(stub: Stub, config: ServerConfig) -> (SocketAddr, Arc<Mutex<Vec<Option<HandshakeKind>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&kinds);
    tokio::spawn(async move {
        loop {
            let stream = accept(&listener).await;
            let (acceptor, stub, seen) = (acceptor.clone(), stub.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    seen.lock().unwrap().push(stream.get_ref().1.handshake_kind());
                    stub.serve(stream).await;
                }
            });
        }
    });
    (addr, kinds)
}

fn policy(addr: SocketAddr, tls: &str) -> String {
    format!(r#"{{"targets": [{{"url": "https://{addr}"}}], "tls": {{{tls}}}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_name_signed_by_the_right_authority_is_spoken_to() {
    let world = World::new().await;
    let (right, wrong) = (Authority::new(), Authority::new());
    let stub = Stub::start("tls", Deed::Status(200)).await;
    let (addr, _) = serve(stub.clone(), right.server("orders.internal", &["http/1.1"], None)).await;
    let (right, wrong) = (right.file(&world, "right.pem"), wrong.file(&world, "wrong.pem"));
    for (tls, good) in [
        (
            format!(r#""ca_file": "{right}", "server_name": "orders.internal""#),
            true,
        ),
        (
            format!(r#""ca_file": "{right}", "server_name": "other.internal""#),
            false,
        ),
        (format!(r#""ca_file": "{right}""#), false),
        (
            format!(r#""ca_file": "{wrong}", "server_name": "orders.internal""#),
            false,
        ),
        (r#""server_name": "orders.internal""#.to_owned(), false),
    ] {
        world.policy(&policy(addr, &tls)).await;
        for _ in 0..3 {
            let before = stub.count();
            let reply = world.get("/v1/a").await;
            if good {
                assert_eq!((reply.status, reply.body.as_slice()), (200, &b"tls"[..]), "{tls}");
            } else {
                assert_eq!(reply.problem(), "upstream-unreachable", "{tls}");
                assert_eq!(stub.count(), before, "not a byte of the request is sent");
            }
        }
    }
    let plain = world.upstream.requests();
    assert!(plain.is_empty(), "the url's own address is not called: {plain:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_and_sessions_are_resumed() {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.threads = 1;
    config.limits.idle_per_upstream = 0;
    world.start_with(config);
    let authority = Authority::new();
    let stub = Stub::start("tls", Deed::Status(200)).await;
    let (addr, kinds) = serve(stub.clone(), authority.server("orders.internal", &[], None)).await;
    let file = authority.file(&world, "ca.pem");
    world
        .policy(&policy(
            addr,
            &format!(r#""ca_file": "{file}", "server_name": "orders.internal""#),
        ))
        .await;
    for _ in 0..3 {
        assert_eq!(world.post().await, (200, "tls".to_owned()));
    }
    assert!(stub.seen.lock().unwrap().iter().all(|r| r.ends_with("\r\n\r\nbody")));
    let kinds = kinds.lock().unwrap().clone();
    assert_eq!(kinds[0], Some(HandshakeKind::Full));
    assert!(kinds[1..].contains(&Some(HandshakeKind::Resumed)), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_shows_its_own_certificate_where_it_has_one() {
    let world = World::new().await;
    let (servers, clients) = (Authority::new(), Authority::new());
    let stub = Stub::start("tls", Deed::Status(200)).await;
    let (addr, _) = serve(stub, servers.server("orders.internal", &["http/1.1"], Some(&clients))).await;
    let ca = servers.file(&world, "ca.pem");
    let (certificate, key) = clients.sign("gateway.internal", true);
    let certificate = write(&world, "client.pem", &certificate.pem());
    let key = write(&world, "client.key", &key.serialize_pem());
    let base = format!(r#""ca_file": "{ca}", "server_name": "orders.internal""#);
    world.policy(&policy(addr, &base)).await;
    assert_eq!(world.ask().await.0, 502);
    let own = format!(r#", "client_certificate_file": "{certificate}", "client_key_file": "{key}""#);
    world.policy(&policy(addr, &format!("{base}{own}"))).await;
    assert_eq!(world.ask().await, (200, "tls".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_leaves_the_last_good_table() {
    let world = World::new().await;
    let authority = Authority::new();
    let stub = Stub::start("tls", Deed::Status(200)).await;
    let (addr, _) = serve(stub, authority.server("orders.internal", &["http/1.1"], None)).await;
    let good = authority.file(&world, "ca.pem");
    let name = r#""server_name": "orders.internal""#;
    world
        .policy(&policy(addr, &format!(r#""ca_file": "{good}", {name}"#)))
        .await;
    assert_eq!(world.ask().await.0, 200);
    let junk = write(&world, "junk.pem", "this is no certificate");
    for (i, file) in ["/nonexistent/ca.pem", &junk].into_iter().enumerate() {
        world
            .policy(&policy(addr, &format!(r#""ca_file": "{file}", {name}"#)))
            .await;
        let wanted = format!("turnpike_gateway_snapshot_rejected_total {}\n", i + 1);
        until(|| world.gateway.as_ref().unwrap().metrics().contains(&wanted)).await;
        assert_eq!(world.ask().await.0, 200, "as before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_off_without_a_word_is_not_taken_for_whole() {
    let world = World::new().await;
    let authority = Authority::new();
    // Its length is not said, so only the end of TLS says that it is whole; the stub drops the connection instead.
    let stub = Stub::start("tls", Deed::Cut("HTTP/1.1 200 OK\r\n\r\nhalf")).await;
    let (addr, _) = serve(stub, authority.server("orders.internal", &["http/1.1"], None)).await;
    let file = authority.file(&world, "ca.pem");
    world
        .policy(&policy(
            addr,
            &format!(r#""ca_file": "{file}", "server_name": "orders.internal""#),
        ))
        .await;
    let (status, body) = world.ask().await;
    assert_eq!(status, 200);
    assert!(
        !body.ends_with("0\r\n\r\n"),
        "the client must see that it broke off: {body:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_read_again() {
    let mut world = World::new().await;
    world.stop().await;
    let mut config = config(&world.folder.0);
    config.limits.upstream_refresh = std::time::Duration::from_millis(50);
    world.start_with(config);
    let (old, new) = (Authority::new(), Authority::new());
    let stub = Stub::start("tls", Deed::Status(200)).await;
    let (addr, _) = serve(stub, new.server("orders.internal", &["http/1.1"], None)).await;
    let file = old.file(&world, "ca.pem");
    let tls = format!(r#""ca_file": "{file}", "server_name": "orders.internal""#);
    world.policy(&policy(addr, &tls)).await;
    assert_eq!(world.ask().await.0, 502, "signed by another authority");
    new.file(&world, "ca.pem");
    while world.ask().await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    write(&world, "ca.pem", "no certificate");
    until(|| {
        let metrics = world.gateway.as_ref().unwrap().metrics();
        !metrics.contains("turnpike_gateway_snapshot_rejected_total 0\n")
    })
    .await;
    assert_eq!(world.ask().await.0, 200, "the last good one stays");
}
