//! Dates as the clock shows them and seconds since 1970, and the bytes that the registers hold.

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const ERA: i64 = 146_097;

/// A moment as people say it. No field is checked against its range: [`Moment::seconds`] makes
/// sense of any, the 31st of February being the 3rd of March.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
}

impl Moment {
    /// From seconds since 1970.
    pub fn of(seconds: i64) -> Self {
        let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
        // Years begin in March here, so that the leap day is the last of its year. Day 0 is the 1st
        // of March of year 0.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
        let year = (day - day / 1_460 + day / 36_524 - day / (ERA - 1)) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        // March to July and August to December have 153 days each.
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self {
            year: year + era * 400 + i64::from(month <= 2),
            month,
            day,
            hour: second / 3_600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> i64 {
        let months = self.year * 12 + self.month - 1;
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12));
        let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
        let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
        let day = 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + self.day - 1;
        let days = era * ERA + day - 719_468;
        days * DAY + self.hour * 3_600 + self.minute * 60 + self.second
    }

    /// 1 for Sunday to 7 for Saturday. The day's place in the week follows from the date alone.
    pub fn weekday(self) -> i64 {
        // The 1st of January 1970 was a Thursday.
        (self.seconds().div_euclid(DAY) + 4).rem_euclid(7) + 1
    }
}

/// How status B has numbers written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub binary: bool,
    pub hours_24: bool,
}

/// In a 12-hour clock's hours: afternoon.
const AFTERNOON: u8 = 0x80;

impl Style {
    /// A number from 0 to 99.
    pub fn number(self, value: i64) -> u8 {
        let value = value.rem_euclid(100) as u8;
        if self.binary { value } else { ((value / 10) << 4) | (value % 10) }
    }

    /// Back from a register. What is not a number in that style becomes some number.
    pub fn value(self, byte: u8) -> i64 {
        if self.binary { byte.into() } else { i64::from(byte >> 4) * 10 + i64::from(byte & 0xf) }
    }

    /// An hour from 0 to 23.
    pub fn hour(self, hour: i64) -> u8 {
        if self.hours_24 {
            return self.number(hour);
        }
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.number(twelve) | if hour >= 12 { AFTERNOON } else { 0 }
    }

    /// Back from a register.
    pub fn hour_value(self, byte: u8) -> i64 {
        if self.hours_24 {
            return self.value(byte);
        }
        self.value(byte & !AFTERNOON) % 12 + if byte & AFTERNOON != 0 { 12 } else { 0 }
    }
}
