//! What proves who a side is, and what it believes of the other: certificates and keys in the files that QEMU has them in.
//!
//! The files are read when a connection is made or awaited, not when they are named: a renewed certificate is used by the next migration.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig, ServerConnection};

use super::refusal::{Peer, TlsError};
use super::tls::Tls;

/// The only version: whatever else a peer offers is refused.
const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// What the source of a migration needs for TLS.
#[derive(Clone)]
pub struct SourceTls {
    config: Arc<ClientConfig>,
    destination: ServerName<'static>,
}

/// What the destination of a migration needs for TLS.
#[derive(Clone)]
pub struct DestinationTls {
    config: Arc<ServerConfig>,
}

impl SourceTls {
    /// With the files in `directory`. The destination must have a certificate for `host`, a name or an address.
    pub fn load(directory: &Path, host: &str) -> Result<Self, TlsError> {
        let destination = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let files = Files::read(directory, "client-cert.pem", "client-key.pem")?;
        let authority = files.authority;
        let verifier = WebPkiServerVerifier::builder_with_provider(files.roots.into(), provider())
            .with_crls(files.revoked)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| unusable(authority, &error))?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| unusable(directory.to_owned(), &error))?
            .with_webpki_verifier(verifier);
        let mut config = config
            .with_client_auth_cert(files.chain, files.key)
            .map_err(|error| pair(error, files.certificate_path, files.key_path))?;
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), destination })
    }

    pub(super) fn begin(&self) -> Result<Tls, TlsError> {
        let connection = ClientConnection::new(self.config.clone(), self.destination.clone());
        Ok(Tls::new(connection.map_err(|error| TlsError::of(error, Peer::Destination))?.into(), Peer::Destination))
    }
}

impl DestinationTls {
    /// With the files in `directory`. The source must have a certificate, too.
    pub fn load(directory: &Path) -> Result<Self, TlsError> {
        let files = Files::read(directory, "server-cert.pem", "server-key.pem")?;
        let authority = files.authority;
        let verifier = WebPkiClientVerifier::builder_with_provider(files.roots.into(), provider())
            .with_crls(files.revoked)
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| unusable(authority, &error))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(VERSIONS)
            .map_err(|error| unusable(directory.to_owned(), &error))?
            .with_client_cert_verifier(verifier);
        let mut config = config
            .with_single_cert(files.chain, files.key)
            .map_err(|error| pair(error, files.certificate_path, files.key_path))?;
        // Every channel proves who it is.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config) })
    }

    pub(super) fn begin(&self) -> Result<Tls, TlsError> {
        let connection = ServerConnection::new(self.config.clone());
        Ok(Tls::new(connection.map_err(|error| TlsError::of(error, Peer::Source))?.into(), Peer::Source))
    }
}

// What is inside is nobody's business.
impl fmt::Debug for SourceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceTls").field("destination", &self.destination).finish_non_exhaustive()
    }
}

impl fmt::Debug for DestinationTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DestinationTls").finish_non_exhaustive()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// One side's files.
struct Files {
    authority: PathBuf,
    roots: RootCertStore,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    certificate_path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key_path: PathBuf,
    key: PrivateKeyDer<'static>,
}

impl Files {
    fn read(directory: &Path, certificate: &str, key: &str) -> Result<Self, TlsError> {
        let authority = directory.join("ca-cert.pem");
        let mut roots = RootCertStore::empty();
        for root in certificates(&authority)? {
            roots.add(root).map_err(|error| unusable(authority.clone(), &error))?;
        }
        let (certificate_path, key_path) = (directory.join(certificate), directory.join(key));
        Ok(Self {
            roots,
            revoked: revocations(&directory.join("ca-crl.pem"))?,
            chain: certificates(&certificate_path)?,
            key: private_key(&key_path)?,
            authority,
            certificate_path,
            key_path,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let nothing = || TlsError::Contents { path: path.to_owned(), what: "certificate" };
    let all: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|_| nothing())?;
    if all.is_empty() { Err(nothing()) } else { Ok(all) }
}

/// The only file that need not be there.
fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = match read(path) {
        Err(TlsError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let nothing = || TlsError::Contents { path: path.to_owned(), what: "certificate revocation list" };
    let all: Vec<_> =
        CertificateRevocationListDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|_| nothing())?;
    if all.is_empty() { Err(nothing()) } else { Ok(all) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    if std::fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o077 != 0) {
        log::warn!("the private key '{}' can be read by others: take their rights away (chmod 600)", path.display());
    }
    let nothing = |_| TlsError::Contents { path: path.to_owned(), what: "private key without a passphrase" };
    PrivateKeyDer::from_pem_slice(&bytes).map_err(nothing)
}

fn unusable(path: PathBuf, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable { path, why: error.to_string() }
}

/// The library takes a certificate and its key together.
fn pair(error: Error, certificate: PathBuf, key: PathBuf) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => TlsError::OtherKey { key, certificate },
        Error::InvalidCertificate(_) => unusable(certificate, &error),
        error => unusable(key, &error),
    }
}
