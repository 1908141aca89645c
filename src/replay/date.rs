//! The time of a combined log.

use crate::clock::days_of;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Unix seconds of `17/May/2015:10:05:03 +0000`; parts of a second may follow the seconds.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let (date, zone) = text.split_once(' ')?;
    let mut parts = date.splitn(4, ['/', ':']);
    let day: i64 = within(parts.next()?, 1, 31)?;
    let month = parts.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year = within(parts.next()?, 1970, 2260)?;
    let mut clock = parts.next()?.splitn(3, ':');
    let hour = within(clock.next()?, 0, 23)?;
    let minute = within(clock.next()?, 0, 59)?;
    let second = clock.next()?.split(['.', ',']).next()?;
    let second = within(second, 0, 60)?;
    let (sign, zone) = match zone.split_at_checked(1)? {
        ("+", zone) => (1, zone),
        ("-", zone) => (-1, zone),
        _ => return None,
    };
    let zone = within(zone.get(..2)?, 0, 23)? * 60 + within(zone.get(2..4)?, 0, 59)?;
    let at = ((days_of(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(at - sign * zone * 60)
}

fn within(text: &str, least: i64, most: i64) -> Option<i64> {
    let number = text.parse().ok()?;
    (least..=most).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (text, expected) in [
            ("01/Jan/1970:00:00:00 +0000", 0),
            ("29/Feb/2024:23:59:59 +0000", 1_709_251_199),
            ("01/Mar/2024:01:00:00 +0100", 1_709_251_200),
            ("31/Dec/2025:19:00:00.123 -0500", 1_767_225_600),
            ("17/May/2015:10:05:03 +0000", 1_431_857_103),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for bad in [
            "",
            "1/2/3",
            "32/Jan/2020:00:00:00 +0000",
            "01/Jan/2020:00:00:00 é0000",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
