//! `--disk`.

use std::path::PathBuf;

use crate::config::{DiskConfig, ImageFormat};

/// What virtio-blk has room for, in bytes.
const MAX_SERIAL: usize = 20;

/// A `--disk` that cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No file.
    #[error("it lacks path=FILE")]
    NoPath,
    /// No format.
    #[error(
        "it lacks format=raw or format=qcow2; the format is not guessed, because a guest could write another format's \
         header to the start of its raw disk and so be given any file of this host the next time"
    )]
    NoFormat,
    /// No such format.
    #[error("'{0}' is not a format; use raw or qcow2 ('qemu-img convert' makes one out of others)")]
    Format(String),
    /// Neither on nor off.
    #[error("'{0}': write 'readonly', 'readonly=on' or 'readonly=off'")]
    ReadOnly(String),
    /// Not what a guest can be shown.
    #[error("'{0}' is not a serial number; use 1 to 20 printable ASCII characters")]
    Serial(String),
    /// A key that does not exist.
    #[error(
        "'{0}' is not an option here; --disk takes path=FILE,format=raw|qcow2[,readonly][,serial=TEXT]\
         [,backing-format=raw|qcow2] (a comma in a name is written twice)"
    )]
    Option(String),
    /// A format of what it cannot have.
    #[error("backing-format is for format=qcow2: a raw image has no backing file")]
    RawBacking,
    /// Twice the same key.
    #[error("'{0}' is given twice")]
    Twice(&'static str),
}

/// `--disk path=FILE,format=raw|qcow2[,readonly][,serial=TEXT][,backing-format=raw|qcow2]`.
pub fn disk(text: &str) -> Result<DiskConfig, DiskError> {
    let (mut path, mut format, mut read_only, mut serial, mut backing_format) = (None, None, None, None, None);
    for option in split(text) {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option.as_str(), None),
        };
        match (key, value) {
            ("path", Some("")) => return Err(DiskError::NoPath),
            ("path", Some(value)) => set(&mut path, "path", PathBuf::from(value))?,
            ("format", Some(value)) => set(&mut format, "format", image_format(value)?)?,
            ("readonly", None | Some("on")) => set(&mut read_only, "readonly", true)?,
            ("readonly", Some("off")) => set(&mut read_only, "readonly", false)?,
            ("readonly", Some(_)) => return Err(DiskError::ReadOnly(option)),
            ("backing-format", Some(value)) => set(&mut backing_format, "backing-format", image_format(value)?)?,
            ("serial", Some(value)) => set(&mut serial, "serial", checked_serial(value)?)?,
            _ => return Err(DiskError::Option(option)),
        }
    }
    let (path, format) = (path.ok_or(DiskError::NoPath)?, format.ok_or(DiskError::NoFormat)?);
    if format == ImageFormat::Raw && backing_format.is_some() {
        return Err(DiskError::RawBacking);
    }
    Ok(DiskConfig {
        path,
        format,
        backing_format,
        read_only: read_only.unwrap_or(false),
        serial: serial.unwrap_or_default(),
    })
}

/// Refuses, with its path, an image that two disks would write to. Two names of one file get as far
/// as the image's lock.
pub fn check_twice(disks: &[DiskConfig]) -> Result<(), PathBuf> {
    for (index, disk) in disks.iter().enumerate() {
        let mut earlier = disks[..index].iter();
        if earlier.any(|it| it.path == disk.path && !(it.read_only && disk.read_only)) {
            return Err(disk.path.clone());
        }
    }
    Ok(())
}

/// At commas; two of them are one that belongs to the text, as in QEMU's options.
fn split(text: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if next == ',' && rest.next_if_eq(&',').is_none() {
            options.push(String::new());
        } else if let Some(option) = options.last_mut() {
            option.push(next);
        }
    }
    options
}

fn set<T>(place: &mut Option<T>, key: &'static str, value: T) -> Result<(), DiskError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(DiskError::Twice(key)),
    }
}

fn image_format(name: &str) -> Result<ImageFormat, DiskError> {
    let mut formats = [ImageFormat::Raw, ImageFormat::Qcow2].into_iter();
    formats.find(|it| it.name() == name).ok_or_else(|| DiskError::Format(name.to_owned()))
}

fn checked_serial(text: &str) -> Result<String, DiskError> {
    let printable = text.bytes().all(|it| it.is_ascii_graphic() || it == b' ');
    match printable && (1..=MAX_SERIAL).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(DiskError::Serial(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_and_nothing_more_than_needed() {
        let config = disk("path=/d/a,format=raw").unwrap();
        let least = DiskConfig {
            path: "/d/a".into(),
            format: ImageFormat::Raw,
            read_only: false,
            backing_format: None,
            serial: String::new(),
        };
        assert_eq!(config, least);
        let config = disk("serial=DISK 1,readonly,format=qcow2,path=a,,b=c").unwrap();
        let all = DiskConfig {
            path: "a,b=c".into(),
            format: ImageFormat::Qcow2,
            read_only: true,
            backing_format: None,
            serial: "DISK 1".into(),
        };
        assert_eq!(config, all);
        assert!(!disk("path=a,format=raw,readonly=off").unwrap().read_only);
    }

    #[test]
    fn what_is_wrong_is_named() {
        use DiskError as E;
        for (text, error) in [
            ("format=raw", E::NoPath),
            ("path=,format=raw", E::NoPath),
            ("path=a", E::NoFormat),
            ("path=a,format=vmdk", E::Format("vmdk".into())),
            ("path=a,format=raw,readonly=yes", E::ReadOnly("readonly=yes".into())),
            ("path=a,format=raw,serial=123456789012345678901", E::Serial("123456789012345678901".into())),
            ("path=a,format=raw,serial=", E::Serial(String::new())),
            ("path=a,format=raw,serial=\u{fc}", E::Serial("\u{fc}".into())),
            ("path=a,format=raw,cache=none", E::Option("cache=none".into())),
            ("path=a,format=raw,", E::Option(String::new())),
            ("a,format=raw", E::Option("a".into())),
            ("path=a,format=raw,path=b", E::Twice("path")),
            ("path=a,format=raw,backing-format=raw", E::RawBacking),
            ("path=a,format=qcow2,backing-format=vdi", E::Format("vdi".into())),
            ("path=a,format=qcow2,backing-format=raw,backing-format=raw", E::Twice("backing-format")),
        ] {
            assert_eq!(disk(text).unwrap_err(), error, "{text}");
        }
        assert!(E::NoFormat.to_string().contains("not guessed"));
    }

    #[test]
    fn one_image_for_two_disks_only_to_read() {
        let disks = |options: [&str; 2]| options.map(|it| disk(&format!("path=a,format=raw{it}")).unwrap());
        assert_eq!(check_twice(&disks([",readonly", ",readonly"])), Ok(()));
        assert_eq!(check_twice(&disks(["", ",readonly"])), Err("a".into()));
        assert_eq!(check_twice(&disks([",readonly", ""])), Err("a".into()));
        let [one, two] = disks(["", ""]);
        assert_eq!(check_twice(&[one, DiskConfig { path: "b".into(), ..two }]), Ok(()));
    }
}
