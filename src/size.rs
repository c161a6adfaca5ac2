//! Sizes in bytes as people write and read them: `512M`, `1.5G`, `4 KiB`.

/// A size that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with an optional suffix.
    #[error("'{0}' is not a size; give a number with an optional suffix K, M, G or T, such as 512M")]
    NotASize(String),
    /// More than 64 bits hold.
    #[error("'{0}' is too large a size; give less than 8388608T")]
    TooLarge(String),
}

/// Reads a size. A bare number counts in units of `unit` bytes; suffixes are binary, in either
/// case, with an optional `B` or `iB`.
pub fn parse_size(text: &str, unit: u64) -> Result<u64, SizeError> {
    let refuse = || SizeError::NotASize(text.to_owned());
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let unit = match suffix.to_ascii_uppercase().as_str() {
        "" => unit,
        "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        "T" | "TB" | "TIB" => 1 << 40,
        _ => return Err(refuse()),
    };
    let too_large = || SizeError::TooLarge(text.to_owned());
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refuse());
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = match fraction {
        "" => 0.0,
        digits => format!("0.{digits}").parse::<f64>().map_err(|_| refuse())?,
    };
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    // The fraction is below 1, so the product is below `unit`, which an f64 holds exactly enough.
    let part = (fraction * unit as f64) as u64;
    whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(part))
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(too_large)
}

/// Writes a size exactly and as short as people type it: `512M`, `1536M`; in bytes what is no
/// multiple of a KiB.
pub fn exact_size(bytes: u64) -> String {
    let units = [(40, 'T'), (30, 'G'), (20, 'M'), (10, 'K')];
    match units.into_iter().find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// Writes a size with three significant digits and a binary suffix, as QEMU's monitor does: `1.5
/// GiB`.
pub fn format_size(bytes: u64) -> String {
    const SUFFIXES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut suffix = 0;
    // 1000 and not 1024, so that the number never has four digits.
    while value >= 1000.0 && suffix + 1 < SUFFIXES.len() {
        value /= 1024.0;
        suffix += 1;
    }
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let digits = format!("{value:.decimals$}");
    let digits = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => &digits,
    };
    format!("{digits} {}", SUFFIXES[suffix])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn suffixes_and_the_bare_number() {
        assert_eq!(parse_size("512", MIB), Ok(512 * MIB));
        assert_eq!(parse_size("512M", MIB), Ok(512 * MIB));
        assert_eq!(parse_size("1.5g", MIB), Ok(1536 * MIB));
        assert_eq!(parse_size("4KiB", MIB), Ok(4096));
        assert_eq!(parse_size("7B", MIB), Ok(7));
        assert_eq!(parse_size("0", MIB), Ok(0));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "M", "-1", "1x", "1..5", "1.2.3G", ".5G", " 1", "1 M", "0x10", "1e3", "½"] {
            assert!(matches!(parse_size(text, MIB), Err(SizeError::NotASize(_))), "{text}");
        }
        for text in ["8388608T", "99999999999999999999", "18446744073709551615"] {
            assert!(matches!(parse_size(text, MIB), Err(SizeError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn an_exact_size_reads_back() {
        for (bytes, text) in
            [(512 * MIB, "512M"), (1536 * MIB, "1536M"), (2048 * MIB, "2G"), (4096, "4K"), (1 << 40, "1T")]
        {
            assert_eq!(exact_size(bytes), text);
            assert_eq!(parse_size(text, 1), Ok(bytes));
        }
        assert_eq!((exact_size(0), exact_size(696_824)), ("0 bytes".to_owned(), "696824 bytes".to_owned()));
    }

    #[test]
    fn three_digits_and_never_four() {
        assert_eq!(format_size(0), "0 B");
        assert_eq!(format_size(999), "999 B");
        assert_eq!(format_size(1000), "0.98 KiB");
        assert_eq!(format_size(4096), "4 KiB");
        assert_eq!(format_size(1536 * MIB), "1.5 GiB");
        assert_eq!(format_size(123 * MIB + MIB / 2), "124 MiB");
        assert_eq!(format_size(u64::MAX), "16 EiB");
    }
}
