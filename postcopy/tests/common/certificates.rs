//! Authorities and certificates for tests, in the files that a migration looks for.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};

static DIRECTORIES: AtomicU64 = AtomicU64::new(0);

/// A directory that is removed at the end of its test.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        let number = DIRECTORIES.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("whimbrel-certificates-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// With everything that both sides need, for a destination at 127.0.0.1 or localhost.
    pub fn complete(authority: &Authority) -> Self {
        let directory = Self::new();
        directory.trust(authority);
        directory.put("server", authority, &Wanted::default());
        directory.put("client", authority, &Wanted { client: true, ..Wanted::default() });
        directory
    }

    pub fn trust(&self, authority: &Authority) {
        fs::write(self.0.join("ca-cert.pem"), &authority.certificate).unwrap();
    }

    /// Puts a new certificate and its key there: `who` is `server` or `client`.
    pub fn put(&self, who: &str, authority: &Authority, wanted: &Wanted) {
        let (certificate, key) = authority.sign(wanted);
        fs::write(self.0.join(format!("{who}-cert.pem")), certificate).unwrap();
        let path = self.0.join(format!("{who}-key.pem"));
        fs::write(&path, key).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Adds the authority's own certificate behind that of `who`.
    pub fn append(&self, who: &str, authority: &Authority) {
        let path = self.0.join(format!("{who}-cert.pem"));
        let chain = fs::read_to_string(&path).unwrap() + &authority.certificate;
        fs::write(path, chain).unwrap();
    }

    pub fn revoke(&self, authority: &Authority, serial: u64) {
        fs::write(self.0.join("ca-crl.pem"), authority.revoke(serial)).unwrap();
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What is to stand in a certificate.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub names: Vec<String>,
    /// For a source.
    pub client: bool,
    /// The first and the last year.
    pub years: (i32, i32),
    pub serial: u64,
    /// The kind of its key.
    pub algorithm: &'static SignatureAlgorithm,
}

impl Default for Wanted {
    fn default() -> Self {
        let names = ["127.0.0.1", "localhost"].map(str::to_owned).to_vec();
        Self { names, client: false, years: (2020, 2100), serial: 7, algorithm: &PKCS_ECDSA_P256_SHA256 }
    }
}

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// One whose own certificate this one signs.
    pub fn under(&self) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "in between");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Its private key, for other programs that sign.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    fn sign(&self, wanted: &Wanted) -> (String, String) {
        let mut params = CertificateParams::new(wanted.names.clone()).unwrap();
        params.not_before = date_time_ymd(wanted.years.0, 1, 1);
        params.not_after = date_time_ymd(wanted.years.1, 1, 1);
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        params.extended_key_usages = vec![match wanted.client {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let key = KeyPair::generate_for(wanted.algorithm).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn revoke(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }
}
