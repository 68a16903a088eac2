//! Frames per second.

use std::fmt;
use std::str::FromStr;

/// Frames per second, as a fraction: 30000/1001 is exactly what television calls 29.97.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRate {
    frames: u32,
    seconds: u32,
}

impl FrameRate {
    /// Fastest rate, in frames per second.
    pub const MAX: u32 = 1000;

    /// So many frames in so many seconds; none where that is no rate, is above [`FrameRate::MAX`], or is below one frame
    /// in [`FrameRate::MAX`] seconds.
    pub fn new(frames: u32, seconds: u32) -> Option<FrameRate> {
        FrameRate::of(frames.into(), seconds.into())
    }

    /// As [`FrameRate::new`], of counts that may only fit after they are shortened, or not exactly.
    pub(crate) fn of(frames: u64, seconds: u64) -> Option<FrameRate> {
        let most = u64::from(FrameRate::MAX);
        let beyond = |more: u64, fewer: u64| more > fewer.saturating_mul(most);
        if frames == 0 || seconds == 0 || beyond(frames, seconds) || beyond(seconds, frames) {
            return None;
        }
        let divisor = gcd(frames, seconds);
        let (mut frames, mut seconds) = (frames / divisor, seconds / divisor);
        while frames > u64::from(u32::MAX) || seconds > u64::from(u32::MAX) {
            (frames, seconds) = (frames.div_ceil(2), seconds.div_ceil(2));
        }
        Some(FrameRate { frames: frames as u32, seconds: seconds as u32 })
    }

    /// Frames in [`FrameRate::seconds`].
    pub fn frames(self) -> u32 {
        self.frames
    }

    /// Seconds that [`FrameRate::frames`] take.
    pub fn seconds(self) -> u32 {
        self.seconds
    }

    /// Frames per second.
    pub fn as_f64(self) -> f64 {
        f64::from(self.frames) / f64::from(self.seconds)
    }

    /// When frame `index` begins, counted in units of which a second has so many, rounded. Differences of such times are
    /// durations whose rounding does not add up.
    pub(crate) fn begins(self, index: u64, units: u32) -> u64 {
        let (frames, wide) = (u128::from(self.frames), u128::from(index) * u128::from(self.seconds));
        ((wide * u128::from(units) + frames / 2) / frames) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl fmt::Display for FrameRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.seconds == 1 { write!(f, "{}", self.frames) } else { write!(f, "{}/{}", self.frames, self.seconds) }
    }
}

impl FromStr for FrameRate {
    type Err = String;

    fn from_str(text: &str) -> Result<FrameRate, String> {
        let parsed = || match text.split_once('/') {
            Some((frames, seconds)) => FrameRate::new(frames.parse().ok()?, seconds.parse().ok()?),
            None => {
                let (whole, part) = text.split_once('.').unwrap_or((text, ""));
                let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit()) && s.len() <= 6;
                if !digits(whole) || !digits(part) {
                    return None;
                }
                FrameRate::of(format!("{whole}{part}").parse().ok()?, 10u64.pow(part.len() as u32))
            }
        };
        parsed().ok_or_else(|| format!("{text:?} is no frame rate: wanted 24, 23.976 or 30000/1001, at most 1000"))
    }
}

#[cfg(test)]
mod tests {
    use super::FrameRate;

    #[test]
    fn a_rate_is_read_as_a_fraction_or_a_decimal() {
        for (text, frames, seconds) in
            [("24", 24, 1), ("23.976", 2997, 125), ("30000/1001", 30000, 1001), ("0.5", 1, 2), ("50/2", 25, 1)]
        {
            let rate: FrameRate = text.parse().unwrap();
            assert_eq!((rate.frames(), rate.seconds()), (frames, seconds));
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for text in ["", "0", "24/0", "-1", "1e3", "1001", "nan", "24/1/1", "1/2000", "9999999999", "."] {
            assert!(text.parse::<FrameRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn rounded_durations_add_up() {
        let rate = FrameRate::new(30000, 1001).unwrap();
        let durations: Vec<u64> = (0..30000).map(|i| rate.begins(i + 1, 100) - rate.begins(i, 100)).collect();
        assert_eq!(durations.iter().sum::<u64>(), 100_100);
        assert!(durations.iter().all(|d| (3..=4).contains(d)));
        assert_eq!(FrameRate::new(24, 1).unwrap().begins(u64::from(u32::MAX), 90_000), 16_106_127_356_250);
    }
}
