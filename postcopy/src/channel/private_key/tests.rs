#![allow(clippy::unwrap_used)]

use std::process::Command;

use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm,
};

use super::*;

/// Keys whose public halves are known without a calculation: numbers 1 and -1 have the generator
/// and its mirror image. Curve, number, point.
const KNOWN: [(Curve, &str, &str, &str); 4] = [
    (
        Curve::P256,
        "0000000000000000000000000000000000000000000000000000000000000001",
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    ),
    (
        Curve::P256,
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632550",
        "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
        "b01cbd1c01e58065711814b583f061e9d431cca994cea1313449bf97c840ae0a",
    ),
    (
        Curve::P384,
        "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001",
        "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
        "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
    ),
    (
        Curve::P384,
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52972",
        "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
        "c9e821b569d9d390a26167406d6d23d6070be242d765eb831625ceec4a0f473ef59f4e30e2817e6285bce2846f15f1a0",
    ),
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// A key that is written in every way there is.
struct Known {
    curve: Curve,
    number: Vec<u8>,
    point: Vec<u8>,
}

impl Known {
    fn all() -> Vec<Self> {
        let known = |(curve, number, x, y): (Curve, &str, &str, &str)| Self {
            curve,
            number: bytes(number),
            point: [vec![4], bytes(x), bytes(y)].concat(),
        };
        KNOWN.into_iter().map(known).collect()
    }

    fn parameters(&self) -> Vec<u8> {
        wrapped(OBJECT, self.curve.oid())
    }

    fn public(point: &[u8]) -> Vec<u8> {
        wrapped(0xa1, &wrapped(BITS, &[&[0], point].concat()))
    }

    fn sec1(&self, number: &[u8], parameters: &[u8], public: &[u8]) -> Vec<u8> {
        let parameters = if parameters.is_empty() { Vec::new() } else { wrapped(0xa0, parameters) };
        wrapped(SEQUENCE, &[wrapped(INTEGER, &[1]), wrapped(OCTETS, number), parameters, public.to_vec()].concat())
    }

    fn whole(&self) -> Vec<u8> {
        pkcs8_of(EC, &self.parameters(), &self.sec1(&self.number, &[], &Self::public(&self.point)))
    }

    fn certificate(&self) -> Vec<CertificateDer<'static>> {
        let algorithm = match self.curve {
            Curve::P256 => &PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &PKCS_ECDSA_P384_SHA384,
        };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&self.whole().into(), algorithm).unwrap();
        certificate(&key)
    }
}

fn certificate(key: &KeyPair) -> Vec<CertificateDer<'static>> {
    vec![CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(key).unwrap().der().clone()]
}

fn pkcs8_of(oid: &[u8], parameters: &[u8], key: &[u8]) -> Vec<u8> {
    let algorithm = wrapped(SEQUENCE, &[wrapped(OBJECT, oid), parameters.to_vec()].concat());
    wrapped(SEQUENCE, &[wrapped(INTEGER, &[0]), algorithm, wrapped(OCTETS, key)].concat())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four = |three: &[u8]| {
        let word = three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        let digit =
            |at: usize| if at <= three.len() { DIGITS[(word >> (18 - 6 * at) & 63) as usize] as char } else { '=' };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(48).map(|line| line.chunks(3).map(four).collect::<String>() + "\n").collect()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", base64(der))
}

/// What comes of it, in a word or the sentence of the refusal.
fn outcome(pem: &str, chain: &[CertificateDer<'static>]) -> String {
    match of_certificate(pem.as_bytes(), chain) {
        Keys::Found(_) => "found".into(),
        Keys::OthersOnly => "others".into(),
        Keys::Unusable(why) => why,
        Keys::None => "none".into(),
    }
}

#[test]
fn an_ec_number_is_read_however_many_zeros_stand_before_it() {
    for known in Known::all() {
        let chain = known.certificate();
        let stripped: Vec<_> = known.number.iter().copied().skip_while(|byte| *byte == 0).collect();
        let public = Known::public(&known.point);
        for number in [
            known.number.clone(),
            stripped.clone(),
            [vec![0], known.number.clone()].concat(),
            [vec![0; 9], stripped].concat(),
        ] {
            let sec1 = known.sec1(&number, &known.parameters(), &public);
            assert_eq!(outcome(&pem("EC PRIVATE KEY", &sec1), &chain), "found", "SEC1, {} bytes", number.len());
            for parameters in [Vec::new(), known.parameters()] {
                let inner = known.sec1(&number, &parameters, &public);
                let pkcs8 = pkcs8_of(EC, &known.parameters(), &inner);
                assert_eq!(outcome(&pem("PRIVATE KEY", &pkcs8), &chain), "found", "PKCS#8, {} bytes", number.len());
            }
        }
    }
}

#[test]
fn an_ec_key_without_its_public_half_or_its_curve_takes_them_from_the_certificate() {
    for known in Known::all() {
        let chain = known.certificate();
        let x = &known.point[1..=known.curve.bytes()];
        let compressed = [&[2 + (known.point.last().unwrap() & 1)], x].concat();
        for public in [Vec::new(), Known::public(&compressed)] {
            let sec1 = known.sec1(&known.number, &known.parameters(), &public);
            assert_eq!(outcome(&pem("EC PRIVATE KEY", &sec1), &chain), "found");
            assert_eq!(outcome(&pem("PRIVATE KEY", &pkcs8_of(EC, &known.parameters(), &sec1)), &chain), "found");
        }
        let nameless = known.sec1(&known.number, &[], &Known::public(&known.point));
        assert_eq!(outcome(&pem("EC PRIVATE KEY", &nameless), &chain), "found");
        let ed25519 = certificate(&KeyPair::generate_for(&PKCS_ED25519).unwrap());
        assert!(outcome(&pem("EC PRIVATE KEY", &nameless), &ed25519).contains("does not name its curve"));
    }
}

#[test]
fn a_number_that_is_too_long_for_its_curve_is_damaged() {
    let known = &Known::all()[0];
    let long = [vec![1], known.number.clone()].concat();
    let sec1 = known.sec1(&long, &known.parameters(), &Known::public(&known.point));
    assert!(outcome(&pem("EC PRIVATE KEY", &sec1), &known.certificate()).contains("damaged"));
}

#[test]
fn a_key_of_another_certificate_is_told_and_one_among_several_is_found() {
    let all = Known::all();
    let (ours, other) = (&all[0], &all[1]);
    let file = |known: &Known| pem("PRIVATE KEY", &known.whole());
    assert_eq!(outcome(&file(other), &ours.certificate()), "others");
    assert_eq!(outcome(&file(&all[2]), &ours.certificate()), "others", "another curve");
    assert_eq!(outcome(&(file(other) + &file(ours)), &ours.certificate()), "found");
    let unusable = pem("DSA PRIVATE KEY", &[]) + &file(ours);
    assert_eq!(outcome(&unusable, &ours.certificate()), "found");
}

#[test]
fn what_stands_around_a_key_does_not_matter() {
    let known = &Known::all()[1];
    let chain = known.certificate();
    let key = pem("EC PRIVATE KEY", &known.sec1(&known.number, &known.parameters(), &Known::public(&known.point)));
    let parameters = pem("EC PARAMETERS", &known.parameters());
    let said = "Public Key Info:\n\tPublic Key Algorithm: EC/ECDSA\n\nprivate key:\n\t00:ff\n\n";
    for text in [
        format!("{said}{key}"),
        format!("{parameters}{key}"),
        format!("{}{key}", pem("CERTIFICATE", &chain[0])),
        format!("{said}{parameters}{key}").replace('\n', "\r\n"),
        key.replace('\n', "\r"),
        key.trim_end().to_owned(),
        key.replace('\n', "  \n"),
    ] {
        assert_eq!(outcome(&text, &chain), "found", "{text}");
    }
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let known = &Known::all()[0];
    let chain = known.certificate();
    let with_curve = |oid: &[u8]| pkcs8_of(EC, &wrapped(OBJECT, oid), &known.sec1(&known.number, &[], &[]));
    let explicit = wrapped(SEQUENCE, &wrapped(INTEGER, &[1]));
    let rsa = |bits: usize, exponent: &[u8]| {
        let modulus = [vec![0, 0x80], vec![1; bits / 8 - 1]].concat();
        wrapped(SEQUENCE, &[wrapped(INTEGER, &[0]), wrapped(INTEGER, &modulus), wrapped(INTEGER, exponent)].concat())
    };
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    for (file, words) in [
        (pem("ENCRYPTED PRIVATE KEY", &[1; 60]), "encrypted with a passphrase"),
        (legacy.to_owned(), "encrypted with a passphrase"),
        (pem("OPENSSH PRIVATE KEY", &[1; 60]), "ssh-keygen"),
        (pem("DSA PRIVATE KEY", &[1; 60]), "kind 'DSA PRIVATE KEY'"),
        (pem("PRIVATE KEY", &with_curve(&[0x2b, 0x81, 4, 0, 0x23])), "an EC key on P-521"),
        (pem("PRIVATE KEY", &with_curve(&[0x2b, 0x81, 4, 0, 0x0a])), "an EC key on secp256k1"),
        (pem("PRIVATE KEY", &with_curve(&[0x2b, 1])), "an EC key on an unknown curve"),
        (pem("PRIVATE KEY", &pkcs8_of(EC, &explicit, &known.sec1(&known.number, &[], &[]))), "explicit parameters"),
        (pem("EC PRIVATE KEY", &known.sec1(&known.number, &explicit, &[])), "explicit parameters"),
        (pem("PRIVATE KEY", &pkcs8_of(&[0x2b, 0x65, 0x71], &[], &[1; 57])), "an Ed448 key"),
        (pem("PRIVATE KEY", &pkcs8_of(&[0x2b, 0x65, 0x6e], &[], &[1; 32])), "an X25519 key"),
        (pem("PRIVATE KEY", &pkcs8_of(&[0x2a, 0x85, 3, 7], &[], &[1; 32])), "a key of an unknown kind"),
        (pem("RSA PRIVATE KEY", &rsa(1024, &[1, 0, 1])), "an RSA key of 1024 bits"),
        (pem("PRIVATE KEY", &pkcs8_of(RSA, &[5, 0], &rsa(2560, &[1, 0, 1]))), "an RSA key of 2560 bits"),
        (pem("RSA PRIVATE KEY", &rsa(2048, &[3])), "exponent below 65537"),
        (pem("RSA PRIVATE KEY", &[SEQUENCE, 2, 1]), "damaged"),
        (pem("PRIVATE KEY", &[]), "damaged"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n".to_owned(), "cut off or damaged"),
        ("-----BEGIN PRIVATE KEY-----\n!!!!\n-----END PRIVATE KEY-----\n".to_owned(), "cut off or damaged"),
        (pem("CERTIFICATE", &chain[0]), "none"),
        (String::new(), "none"),
    ] {
        let text = outcome(&file, &chain);
        assert!(text.contains(words), "'{words}' is not in '{text}'");
    }
    let der = [&[SEQUENCE, 0x81, 0x87][..], &[0; 0x87]].concat();
    let Keys::Unusable(why) = of_certificate(&der, &chain) else { panic!() };
    assert!(why.contains("DER form"), "{why}");
}

#[test]
fn no_bytes_are_too_odd_to_be_refused() {
    let known = &Known::all()[0];
    let chain = known.certificate();
    let whole = known.whole();
    for length in 0..whole.len() {
        assert_ne!(outcome(&pem("PRIVATE KEY", &whole[..length]), &chain), "found", "{length}");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0xff;
        outcome(&pem("PRIVATE KEY", &changed), &chain);
        outcome(&pem("EC PRIVATE KEY", &changed), &chain);
        outcome(&pem("RSA PRIVATE KEY", &changed), &chain);
    }
}

#[test]
fn the_librarys_own_keys_are_read_as_before() {
    let algorithms: [&'static SignatureAlgorithm; 3] =
        [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
    for algorithm in algorithms {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert_eq!(outcome(&key.serialize_pem(), &certificate(&key)), "found");
    }
}

/// Runs a program with what it reads; what it writes, or nothing if it is not there or does not
/// know what is asked.
fn written(program: &str, arguments: &[&str], input: &str) -> Option<String> {
    use std::io::Write;
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn keys_of_openssl_and_certtool_are_read_in_each_of_their_forms() {
    let ec = |form: &'static [&'static str]| [&["ecparam", "-genkey", "-name"], form].concat();
    let certtool = |kind: &'static [&'static str]| [&["--generate-privkey"], kind].concat();
    let makers: Vec<(&str, Vec<&str>)> = vec![
        ("openssl", ec(&["prime256v1"])),
        ("openssl", ec(&["secp384r1"])),
        ("openssl", vec!["genpkey", "-algorithm", "ed25519"]),
        ("openssl", vec!["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("certtool", certtool(&["--key-type=ecdsa", "--curve=secp256r1"])),
        ("certtool", certtool(&["--key-type=ecdsa", "--curve=secp384r1", "--pkcs8", "--password="])),
        ("certtool", certtool(&["--key-type=ed25519"])),
        ("certtool", certtool(&["--key-type=rsa", "--bits=2048"])),
    ];
    for (program, arguments) in makers {
        let Some(key) = written(program, &arguments, "") else {
            eprintln!("SKIPPED: {program} is not installed, or cannot make {arguments:?}");
            continue;
        };
        let request = ["req", "-new", "-x509", "-key", "/dev/stdin", "-subj", "/CN=localhost", "-days", "9"];
        let Some(certificate) = written("openssl", &request, &key) else {
            eprintln!("SKIPPED: openssl makes no certificate for {arguments:?}");
            continue;
        };
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        assert_eq!(outcome(&key, &chain), "found", "{program} {arguments:?}");
        for form in [&["pkey"][..], &["pkey", "-traditional"], &["pkey", "-ec_conv_form", "compressed"]] {
            if let Some(other) = written("openssl", form, &key) {
                assert_eq!(outcome(&other, &chain), "found", "{program} {arguments:?}, {form:?}");
            }
        }
        let locked = written("openssl", &["pkcs8", "-topk8", "-passout", "pass:secret"], &key);
        if let Some(locked) = locked {
            assert!(outcome(&locked, &chain).contains("passphrase"), "{program} {arguments:?}");
        }
    }
}
