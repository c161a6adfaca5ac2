//! [`TlsError`]: why TLS does not begin or go on.

use std::io;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// What can go wrong with TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file of the credentials is missing or must not be read.
    #[error("cannot read '{}'", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the credentials holds something else.
    #[error("'{}' holds no {what} in PEM form; put one there", .path.display())]
    Contents {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A file of the credentials holds what cannot be used.
    #[error("'{}' cannot be used: {why}", .path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Two files of the credentials that do not belong together.
    #[error("the key '{}' does not belong to the certificate '{}'; put the pair there that was made together", .key.display(), .certificate.display())]
    OtherKey {
        /// The private key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// A host that no certificate can name.
    #[error("'{0}' is no name or address that a certificate can have")]
    Name(String),
    /// An address without a host.
    #[error("a unix: address names no host to look for in the destination's certificate")]
    NoName,
    /// The peer is a Whimbrel without TLS.
    #[error("the {0} does not use TLS and the {other} does", other = .0.other())]
    Plain(Peer),
    /// The peer is something else.
    #[error("the {peer} does not speak TLS (its first bytes are {first:02x?})")]
    NotTls {
        /// Who.
        peer: Peer,
        /// What it said first.
        first: Vec<u8>,
    },
    /// The peer's certificate is for other hosts than the one that this side connected to.
    #[error("the {peer}'s certificate is not for '{expected}' (the names in it: {names})")]
    OtherName {
        /// Whose certificate.
        peer: Peer,
        /// The host's name or address.
        expected: String,
        /// The names in the certificate, separated by commas, or `none`.
        names: String,
        /// The peer's file with the certificate.
        file: &'static str,
    },
    /// The source does not find the name that it looks for in this side's certificate.
    #[error("the source refused this side's certificate, {file}: the name that the source looks for is not in it")]
    NameRefused {
        /// This side's file with the certificate.
        file: &'static str,
    },
    /// The peer's certificate is not good enough for this side.
    #[error("{0}")]
    Rejected(String),
    /// This side's certificate is not good enough for the peer, or the peer gives up for another
    /// reason.
    #[error("{0}")]
    Refused(String),
    /// A channel with another certificate than the first of its migration.
    #[error("it has another certificate than the control channel")]
    OtherCertificate,
    /// What came is not what was sent.
    #[error("what came from the {peer} was damaged on its way, or is not of this connection: {why}")]
    Damaged {
        /// Who sent it, or did not.
        peer: Peer,
        /// What is wrong with it.
        why: String,
    },
}

/// The other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The side that the guest leaves.
    Source,
    /// The side that the guest goes to.
    Destination,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

impl Peer {
    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// The files of its certificate and of this side's.
    const fn certificates(self) -> (&'static str, &'static str) {
        match self {
            Self::Source => ("client-cert.pem", "server-cert.pem"),
            Self::Destination => ("server-cert.pem", "client-cert.pem"),
        }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl TlsError {
    /// What the TLS library found wrong with what `peer` sent.
    pub(super) fn of(error: Error, peer: Peer) -> Self {
        match error {
            Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
                let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
                let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                Self::OtherName { peer, expected: expected.to_str().into_owned(), names, file: peer.certificates().0 }
            }
            Error::InvalidCertificate(error) => Self::Rejected(rejected(&error, peer)),
            Error::NoCertificatesPresented => Self::Rejected(format!(
                "the {peer} presented no certificate; it needs {} and its key",
                peer.certificates().0
            )),
            Error::AlertReceived(AlertDescription::BadCertificate) if peer == Peer::Source => {
                Self::NameRefused { file: peer.certificates().1 }
            }
            Error::AlertReceived(alert) => Self::Refused(refused(alert, peer)),
            Error::PeerIncompatible(why) => Self::Rejected(incompatible(&why, peer)),
            other => Self::Damaged { peer, why: other.to_string() },
        }
    }
}

/// The peer wants TLS, and another than this side.
fn incompatible(why: &PeerIncompatible, peer: Peer) -> String {
    use PeerIncompatible as P;
    match why {
        P::ServerDoesNotSupportTls12Or13
        | P::ServerTlsVersionIsDisabledByOurConfig
        | P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled => too_old(peer),
        other => format!("the {peer} speaks TLS 1.3 in no way that this side does: {other:?}; update Whimbrel there"),
    }
}

fn too_old(peer: Peer) -> String {
    format!(
        "the {peer} does not speak TLS 1.3, and this side nothing else; see that a Whimbrel answers there, and nothing in between"
    )
}

/// This side does not accept the peer's certificate.
fn rejected(error: &CertificateError, peer: Peer) -> String {
    use CertificateError as E;
    let (theirs, _) = peer.certificates();
    match error {
        E::Expired | E::ExpiredContext { .. } => {
            format!("the {peer}'s certificate has expired; renew {theirs} there")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!(
                "the {peer}'s certificate is not valid yet; check the clocks of both hosts, or renew {theirs} there"
            )
        }
        // The second is what an authority of the same name gives.
        E::UnknownIssuer | E::BadSignature => format!(
            "the {peer}'s certificate is not signed by the authority in this side's ca-cert.pem; use one authority on both sides, \
             and put the certificates of those between it and the {peer} into {theirs} there, behind its own"
        ),
        E::Revoked => {
            format!("the {peer}'s certificate has been revoked by this side's ca-crl.pem; renew {theirs} there")
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            let purpose = if peer == Peer::Source { "clients" } else { "servers" };
            format!("the {peer}'s certificate is not made for TLS {purpose}; make {theirs} with that purpose")
        }
        other => format!("the {peer}'s certificate cannot be accepted: {other}; renew {theirs} there"),
    }
}

/// A name without what the TLS library says around it, as in `DnsName("localhost")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

/// The peer does not accept this side's certificate, as far as it tells.
fn refused(alert: AlertDescription, peer: Peer) -> String {
    use AlertDescription as A;
    let (_, ours) = peer.certificates();
    let why = match alert {
        A::CertificateExpired => {
            "it has expired or is not valid yet there; check the clocks of both hosts, or renew it"
        }
        A::UnknownCA | A::DecryptError => {
            "it is not signed by the authority in the ca-cert.pem there; use one authority on both sides, \
             and put the certificates of those between into this file, behind its own"
        }
        A::CertificateRevoked => "it has been revoked by the ca-crl.pem there; renew it",
        A::CertificateRequired => "none was presented",
        A::UnsupportedCertificate => "it is not made for this purpose; make it anew",
        A::BadCertificate | A::CertificateUnknown | A::AccessDenied => "see the log there",
        A::ProtocolVersion => return too_old(peer),
        other => return format!("the {peer} gave TLS up with alert {other:?}; see the log there"),
    };
    format!("the {peer} refused this side's certificate, {ours}: {why}")
}
