//! Durations as people write and read them.

use std::time::Duration;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Reads `500ms`, `5s`, `2m`, `1h`. A bare number is refused: who writes 300 may mean either.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => Some(1),
        "s" => Some(SECOND_MS),
        "m" => Some(MINUTE_MS),
        "h" => Some(HOUR_MS),
        _ => None,
    };
    let ms = number.parse::<u64>().ok().zip(unit_ms).and_then(|(n, unit)| n.checked_mul(unit));
    ms.map(Duration::from_millis)
        .ok_or_else(|| "write a whole number and a unit, such as 500ms, 5s, 2m or 1h".to_owned())
}

/// Writes a duration in at most two units.
pub(crate) fn text_ms(ms: u64) -> String {
    match ms {
        0..SECOND_MS => format!("{ms} ms"),
        SECOND_MS..MINUTE_MS => format!("{}.{} s", ms / SECOND_MS, ms % SECOND_MS / 100),
        MINUTE_MS..HOUR_MS => format!("{}m{:02}s", ms / MINUTE_MS, ms % MINUTE_MS / SECOND_MS),
        HOUR_MS..DAY_MS => format!("{}h{:02}m", ms / HOUR_MS, ms % HOUR_MS / MINUTE_MS),
        _ => format!("{}d{:02}h", ms / DAY_MS, ms % DAY_MS / HOUR_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_unit() {
        let cases = [("500ms", 500), ("5s", 5_000), ("2m", 120_000), ("1h", HOUR_MS)];
        for (text, ms) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "7", "s", "-1s", "1.5s", "5 s", "99999999999999999h", "5sec"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn writes_at_most_two_units() {
        let cases = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (5_290, "5.2 s"),
            (59_999, "59.9 s"),
            (60_000, "1m00s"),
            (192_000, "3m12s"),
            (HOUR_MS, "1h00m"),
            (DAY_MS + 4 * HOUR_MS, "1d04h"),
        ];
        for (ms, text) in cases {
            assert_eq!(text_ms(ms), text, "{ms}");
        }
    }
}
