//! Private keys as OpenSSL and certtool write them, made into the form that the TLS library takes.
//!
//! ring takes an EC key's number in exactly as many bytes as the curve has, and its public key
//! besides. certtool writes the number as an integer: with a zero byte before it when its top bit
//! is set, and shorter when it is small; OpenSSL can leave the public key out.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

/// What a key may be.
pub(super) const KINDS: &str =
    "a key is RSA of 2048, 3072 or 4096 bits, EC on P-256 or P-384, or Ed25519, without a passphrase";

/// What came of a file of keys.
pub(super) enum Keys {
    /// The first that belongs to the certificate.
    Found(PrivateKeyDer<'static>),
    /// There are keys that can be used, but of other certificates.
    OthersOnly,
    /// None can be used; why the first cannot.
    Unusable(String),
    /// There is none.
    None,
}

/// The cryptography that keys and certificates are used with.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The key in `pem` for the first certificate of `chain`.
pub(super) fn of_certificate(pem: &[u8], chain: &[CertificateDer<'static>]) -> Keys {
    let public = chain.first().and_then(PublicKey::of);
    let (mut others, mut fault) = (false, None);
    for section in sections(pem) {
        match read(&section, public.as_ref()) {
            Ok(key) => match belongs(&key, chain) {
                Some(true) => return Keys::Found(key),
                Some(false) => others = true,
                None => fault = fault.or_else(|| Some(refused(&key))),
            },
            Err(why) => fault = fault.or(Some(why)),
        }
    }
    match fault {
        _ if others => Keys::OthersOnly,
        Some(why) => Keys::Unusable(why),
        // The beginning of a key that is not written as text.
        None if pem.starts_with(&[SEQUENCE, 0x82]) || pem.starts_with(&[SEQUENCE, 0x81]) => Keys::Unusable(
            "it is in DER form, not in PEM: convert it with 'openssl pkey -inform DER -in KEY -out KEY.pem'".into(),
        ),
        None => Keys::None,
    }
}

/// Whether the library takes the key, and whether it is the certificate's. What is wrong with a
/// certificate is told elsewhere.
fn belongs(key: &PrivateKeyDer<'static>, chain: &[CertificateDer<'static>]) -> Option<bool> {
    let signing = provider().key_provider.load_private_key(key.clone_key()).ok()?;
    let matched = CertifiedKey::new(chain.to_vec(), signing).keys_match();
    Some(!matches!(matched, Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch))))
}

/// A part of the file between a BEGIN and an END that speak of a private key.
struct Section<'a> {
    label: &'a str,
    text: String,
}

/// All of them. Whatever stands around them is none of ours.
fn sections(pem: &[u8]) -> Vec<Section<'_>> {
    let mut found: Vec<Section<'_>> = Vec::new();
    let mut open = false;
    for line in pem.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = std::str::from_utf8(line).unwrap_or_default().trim();
        let mark = |word| line.strip_prefix("-----")?.strip_prefix(word)?.strip_suffix("-----")?.strip_prefix(' ');
        if let Some(label) = mark("BEGIN").filter(|label| label.ends_with("PRIVATE KEY")) {
            found.push(Section { label, text: String::new() });
            open = true;
        }
        if let Some(section) = found.last_mut().filter(|_| open) {
            section.text.push_str(line);
            section.text.push('\n');
            open = mark("END").is_none();
        }
    }
    found
}

/// One key as the library takes it, or why there is no way.
fn read(section: &Section<'_>, public: Option<&PublicKey>) -> Result<PrivateKeyDer<'static>, String> {
    let encrypted = section.text.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"));
    match section.label {
        "ENCRYPTED PRIVATE KEY" => return Err(passphrase()),
        _ if encrypted => return Err(passphrase()),
        "OPENSSH PRIVATE KEY" => {
            return Err("it is in OpenSSH's form: convert it with 'ssh-keygen -p -m PKCS8 -f KEY'".into());
        }
        "PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY" => {}
        label => return Err(format!("it is a key of kind '{label}'; {KINDS}")),
    }
    let decoded = <(SectionKind, Vec<u8>)>::from_pem_slice(section.text.as_bytes());
    let der = decoded.map_err(|_| "its text is cut off or damaged: copy it again".to_owned())?.1;
    match section.label {
        "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(der.into())),
        "EC PRIVATE KEY" => elliptic(&der, None, public),
        _ => pkcs8(der, public),
    }
}

fn passphrase() -> String {
    "it is encrypted with a passphrase: take that off with 'openssl pkey -in KEY -out NEW'".into()
}

/// Kinds of keys in PKCS#8, by their object identifiers.
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OTHER_KINDS: [(&[u8], &str); 9] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10], "an RSA-PSS key"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1], "a DSA key"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 3, 1], "a Diffie-Hellman key"),
    (&[0x2b, 0x65, 0x6e], "an X25519 key, which signs nothing"),
    (&[0x2b, 0x65, 0x6f], "an X448 key, which signs nothing"),
    (&[0x2b, 0x65, 0x71], "an Ed448 key"),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 17], "an ML-DSA-44 key"),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 18], "an ML-DSA-65 key"),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 19], "an ML-DSA-87 key"),
];

/// A curve that the library has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
}

impl Curve {
    const OIDS: [(&'static [u8], Self); 2] =
        [(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], Self::P256), (&[0x2b, 0x81, 4, 0, 0x22], Self::P384)];
    const OTHERS: [(&'static [u8], &'static str); 6] = [
        (&[0x2b, 0x81, 4, 0, 0x23], "P-521"),
        (&[0x2b, 0x81, 4, 0, 0x21], "P-224"),
        (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 1], "P-192"),
        (&[0x2b, 0x81, 4, 0, 0x0a], "secp256k1"),
        (&[0x2b, 0x24, 3, 3, 2, 8, 1, 1, 7], "brainpoolP256r1"),
        (&[0x2b, 0x24, 3, 3, 2, 8, 1, 1, 11], "brainpoolP384r1"),
    ];

    fn of(oid: &[u8]) -> Result<Self, String> {
        if let Some((_, curve)) = Self::OIDS.iter().find(|(known, _)| *known == oid) {
            return Ok(*curve);
        }
        let name = Self::OTHERS.iter().find(|(known, _)| *known == oid).map_or("an unknown curve", |(_, name)| name);
        Err(format!("it is an EC key on {name}; {KINDS}"))
    }

    /// Of a field that may hold the curve's name, or all of its numbers, or nothing.
    fn of_parameters(field: &[u8]) -> Result<Option<Self>, String> {
        match element(field) {
            Some((OBJECT, oid, _)) => Self::of(oid).map(Some),
            Some((SEQUENCE, ..)) => Err(format!(
                "it is an EC key with explicit parameters instead of a named curve: make one with \
                 'openssl ecparam -genkey -param_enc named_curve -name prime256v1'; {KINDS}"
            )),
            _ => Ok(None),
        }
    }

    fn oid(self) -> &'static [u8] {
        Self::OIDS[self as usize].0
    }

    /// How many bytes a number of it has.
    fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// A certificate's EC key.
struct PublicKey {
    curve: Option<Curve>,
    point: Vec<u8>,
}

impl PublicKey {
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        let info = parsed.subject_public_key_info();
        let (_, info, _) = element(&info)?;
        let (_, algorithm, rest) = element(info)?;
        let (_, oid, parameters) = element(algorithm)?;
        let (tag, bits, _) = element(rest)?;
        // A bit string begins with how many of its last bits do not count.
        (oid == EC && tag == BITS).then(|| Self {
            curve: Curve::of_parameters(parameters).ok().flatten(),
            point: bits.get(1..).unwrap_or_default().to_vec(),
        })
    }
}

/// PKCS#8: the kind, and a key in that kind's own form.
fn pkcs8(der: Vec<u8>, public: Option<&PublicKey>) -> Result<PrivateKeyDer<'static>, String> {
    let parts = || {
        let (_, all, _) = element(&der)?;
        let (_, _version, rest) = element(all)?;
        let (_, algorithm, rest) = element(rest)?;
        let (_, oid, parameters) = element(algorithm)?;
        let (_, key, _) = element(rest)?;
        Some((oid, parameters, key))
    };
    let (oid, parameters, key) = parts().ok_or_else(damaged)?;
    if oid == EC {
        return elliptic(key, Curve::of_parameters(parameters)?, public);
    }
    if oid == RSA || oid == ED25519 {
        return Ok(PrivateKeyDer::Pkcs8(der.into()));
    }
    let kind = OTHER_KINDS.iter().find(|(known, _)| *known == oid).map_or("a key of an unknown kind", |(_, name)| name);
    Err(format!("it is {kind}; {KINDS}"))
}

fn damaged() -> String {
    "it is no private key, or a damaged one: put the right one there".into()
}

/// SEC1 (RFC 5915), written anew as PKCS#8 with the number in as many bytes as the curve has.
fn elliptic(sec1: &[u8], named: Option<Curve>, public: Option<&PublicKey>) -> Result<PrivateKeyDer<'static>, String> {
    let (_, fields, _) = element(sec1).ok_or_else(damaged)?;
    let (_, _version, rest) = element(fields).ok_or_else(damaged)?;
    let (tag, number, mut rest) = element(rest).ok_or_else(damaged)?;
    if tag != OCTETS {
        return Err(damaged());
    }
    let (mut curve, mut point) = (named, None);
    while let Some((tag, content, more)) = element(rest) {
        match tag {
            // Its own word on the curve says no more than the name outside.
            0xa0 if curve.is_none() => curve = Curve::of_parameters(content)?,
            0xa1 => point = element(content).and_then(|(_, bits, _)| bits.get(1..)),
            _ => {}
        }
        rest = more;
    }
    let curve = curve.or_else(|| public?.curve);
    let curve = curve.ok_or_else(|| format!("it is an EC key that does not name its curve; {KINDS}"))?;

    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let significant = &number[start..];
    let missing = curve.bytes().checked_sub(significant.len()).ok_or_else(damaged)?;
    let number = [vec![0; missing], significant.to_vec()].concat();
    // The library takes points that are not compressed.
    let whole = |point: &&[u8]| point.len() == 1 + 2 * curve.bytes() && point[0] == 4;
    let of_certificate = || public.map(|it| it.point.as_slice()).filter(whole);
    let point = point.filter(whole).or_else(of_certificate).ok_or(
        "it is an EC key without its whole public key, which the certificate does not have either: write it anew \
         with 'openssl pkey -in KEY -out NEW -ec_conv_form uncompressed'",
    )?;
    let key = wrapped(
        SEQUENCE,
        &[wrapped(INTEGER, &[1]), wrapped(OCTETS, &number), wrapped(0xa1, &wrapped(BITS, &[&[0], point].concat()))]
            .concat(),
    );
    let algorithm = wrapped(SEQUENCE, &[wrapped(OBJECT, EC), wrapped(OBJECT, curve.oid())].concat());
    let all = [wrapped(INTEGER, &[0]), algorithm, wrapped(OCTETS, &key)].concat();
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(wrapped(SEQUENCE, &all))))
}

/// Why the library takes no such key.
fn refused(key: &PrivateKeyDer<'_>) -> String {
    match key {
        PrivateKeyDer::Pkcs1(pkcs1) => rsa(pkcs1.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(pkcs8) => inside(pkcs8.secret_pkcs8_der()).map_or_else(damaged, rsa),
        _ => damaged(),
    }
}

/// The key inside PKCS#8, if it is RSA's.
fn inside(pkcs8: &[u8]) -> Option<&[u8]> {
    let (_, all, _) = element(pkcs8)?;
    let (_, _version, rest) = element(all)?;
    let (_, algorithm, rest) = element(rest)?;
    let (_, oid, _) = element(algorithm)?;
    (oid == RSA).then(|| element(rest).map(|(_, key, _)| key)).flatten()
}

fn rsa(pkcs1: &[u8]) -> String {
    let numbers = || {
        let (_, all, _) = element(pkcs1)?;
        let (_, _version, rest) = element(all)?;
        let (_, modulus, rest) = element(rest)?;
        let (_, exponent, _) = element(rest)?;
        Some((bits(modulus), exponent))
    };
    match numbers() {
        Some((bits, _)) if ![2048, 3072, 4096].contains(&bits) => format!("it is an RSA key of {bits} bits; {KINDS}"),
        Some((_, exponent)) if bits(exponent) < 17 => {
            format!("it is an RSA key with a public exponent below 65537; {KINDS}")
        }
        _ => damaged(),
    }
}

/// How many bits a number has.
fn bits(number: &[u8]) -> u64 {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let leading = number.get(start).map_or(0, |byte| byte.leading_zeros());
    (number.len() - start) as u64 * 8 - u64::from(leading)
}

const INTEGER: u8 = 2;
const BITS: u8 = 3;
const OCTETS: u8 = 4;
const OBJECT: u8 = 6;
const SEQUENCE: u8 = 0x30;

/// The first element of some DER: its tag, its contents, what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // The length's own length. Keys are short.
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

/// An element of DER. Its contents are shorter than 64 KiB.
fn wrapped(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head.as_slice(), contents].concat()
}

#[cfg(test)]
mod tests;
