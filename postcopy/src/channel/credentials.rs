//! What proves who a side is, and what it believes of the other: certificates and keys in the files
//! that QEMU has them in.
//!
//! The files are read when a connection is made or awaited, not when they are named: a renewed
//! certificate is used by the next migration.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, VerifierBuilderError, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, ConfigSide, Error, RootCertStore, ServerConfig, ServerConnection,
    WantsVerifier, WantsVersions,
};

use super::private_key::{self, Keys, provider};
use super::refusal::{Peer, TlsError};
use super::tls::Tls;
use crate::logging as log;

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
    /// With the files in `directory`. The destination must have a certificate for `host`, a name or
    /// an address.
    pub fn load(directory: &Path, host: &str) -> Result<Self, TlsError> {
        let destination = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let verifier = |roots, revoked| {
            let builder = WebPkiServerVerifier::builder_with_provider(roots, provider());
            builder.with_crls(revoked).allow_unknown_revocation_status().build()
        };
        let builder = ClientConfig::builder_with_provider(provider());
        let mut config =
            Files::read(directory, "client")?.config(builder, verifier, |config, verifier, chain, key| {
                config.with_webpki_verifier(verifier).with_client_auth_cert(chain, key)
            })?;
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
        let verifier = |roots, revoked| {
            let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_crls(revoked).allow_unknown_revocation_status().build()
        };
        let builder = ServerConfig::builder_with_provider(provider());
        let mut config =
            Files::read(directory, "server")?.config(builder, verifier, |config, verifier, chain, key| {
                config.with_client_cert_verifier(verifier).with_single_cert(chain, key)
            })?;
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

type Chain = Vec<CertificateDer<'static>>;
type Revocations = Vec<CertificateRevocationListDer<'static>>;

/// One side's files.
struct Files {
    authority: PathBuf,
    roots: RootCertStore,
    revoked: Revocations,
    certificate_path: PathBuf,
    chain: Chain,
    key_path: PathBuf,
    key: PrivateKeyDer<'static>,
}

impl Files {
    /// Of the side that is called `who` in the names of the files.
    fn read(directory: &Path, who: &str) -> Result<Self, TlsError> {
        let authority = directory.join("ca-cert.pem");
        let mut roots = RootCertStore::empty();
        for root in certificates(&authority)? {
            roots.add(root).map_err(|error| unusable(authority.clone(), &error))?;
        }
        let file = |what: &str| directory.join(format!("{who}-{what}.pem"));
        let (certificate_path, key_path) = (file("cert"), file("key"));
        let chain = certificates(&certificate_path)?;
        Ok(Self {
            roots,
            revoked: revocations(&directory.join("ca-crl.pem"))?,
            key: private_key(&key_path, &certificate_path, &chain)?,
            chain,
            authority,
            certificate_path,
            key_path,
        })
    }

    /// Both sides' configurations are made of the same parts, which the library has under different
    /// types: `judge` makes what judges the peer's certificate, and `finish` puts it into the
    /// configuration together with what this side shows.
    fn config<Side: ConfigSide, Judge, Config>(
        self,
        builder: ConfigBuilder<Side, WantsVersions>,
        judge: impl FnOnce(Arc<RootCertStore>, Revocations) -> Result<Judge, VerifierBuilderError>,
        finish: impl FnOnce(
            ConfigBuilder<Side, WantsVerifier>,
            Judge,
            Chain,
            PrivateKeyDer<'static>,
        ) -> Result<Config, Error>,
    ) -> Result<Config, TlsError> {
        let judge = judge(self.roots.into(), self.revoked).map_err(|error| unusable(self.authority.clone(), &error))?;
        let builder = builder.with_protocol_versions(VERSIONS).map_err(|error| unusable(self.authority, &error))?;
        finish(builder, judge, self.chain, self.key).map_err(|error| pair(error, self.certificate_path, self.key_path))
    }
}

/// A file of credentials is no longer than this, in bytes: lists of revocations grow.
const MOST: u64 = 64 << 20;

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    crate::files::read(path, MOST).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

/// Everything of one kind that a file holds, one at least.
fn all<T: PemObject>(path: &Path, bytes: &[u8], what: &'static str) -> Result<Vec<T>, TlsError> {
    let found = T::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if found.is_empty() { Err(TlsError::Contents { path: path.to_owned(), what }) } else { Ok(found) }
}

fn certificates(path: &Path) -> Result<Chain, TlsError> {
    all(path, &read(path)?, "certificate")
}

/// The only file that need not be there.
fn revocations(path: &Path) -> Result<Revocations, TlsError> {
    match read(path) {
        Err(TlsError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        bytes => all(path, &bytes?, "certificate revocation list"),
    }
}

/// The key of the certificate at `certificate`, whose chain it is.
fn private_key(path: &Path, certificate: &Path, chain: &Chain) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    if std::fs::metadata(path).is_ok_and(|it| it.permissions().mode() & 0o077 != 0) {
        log::warn!("the private key '{}' can be read by others: take their rights away (chmod 600)", path.display());
    }
    match private_key::of_certificate(&bytes, chain) {
        Keys::Found(key) => Ok(key),
        Keys::OthersOnly => Err(TlsError::OtherKey { key: path.to_owned(), certificate: certificate.to_owned() }),
        Keys::Unusable(why) => Err(TlsError::Unusable { path: path.to_owned(), why }),
        Keys::None => Err(TlsError::Contents { path: path.to_owned(), what: "private key" }),
    }
}

fn unusable(path: PathBuf, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable { path, why: format!("{error}; make a new one") }
}

/// The library takes a certificate and its key together.
fn pair(error: Error, certificate: PathBuf, key: PathBuf) -> TlsError {
    match error {
        Error::InconsistentKeys(_) => TlsError::OtherKey { key, certificate },
        Error::InvalidCertificate(_) => unusable(certificate, &error),
        error => unusable(key, &error),
    }
}
