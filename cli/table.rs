//! Plain tables, numbers and sizes for the terminal.

use std::fmt::Arguments;
use std::io::Write;

/// Prints a line as `println!` does, but a reader that went away (`| head`) is no panic.
macro_rules! say {
    ($($text:tt)*) => { crate::table::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// What [`say!`] does.
pub fn line(text: Arguments<'_>) {
    // Nobody is left to tell.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Rows of cells under headings. Columns that hold numbers are set right.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
    /// Widest line, at which the last cell is cut.
    most: usize,
}

impl Table {
    /// Headings; one that begins with `>` is of a column set right.
    pub fn new(headings: &[&str]) -> Table {
        let right = headings.iter().map(|h| h.starts_with('>')).collect();
        Table {
            rows: vec![headings.iter().map(|h| h.trim_start_matches('>').to_string()).collect()],
            right,
            most: usize::MAX,
        }
    }

    /// Cuts the last cell of each row so that lines have at most this many columns.
    pub fn within(mut self, columns: usize) -> Table {
        self.most = columns;
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Writes it; a reader that went away (`| head`) is no error.
    pub fn print(&self) {
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut out = std::io::stdout().lock();
        for row in &self.rows {
            let cell = |(c, text): (usize, &String)| {
                let (w, last) = (widths[c], c + 1 == widths.len());
                if self.right[c] {
                    format!("{text:>w$}")
                } else if last {
                    text.clone()
                } else {
                    format!("{text:<w$}")
                }
            };
            let line: Vec<String> = row.iter().enumerate().map(cell).collect();
            if writeln!(out, "{}", cut(line.join("  ").trim_end(), self.most)).is_err() {
                return;
            }
        }
    }
}

/// The text, with an ellipsis where it is longer.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Bytes for people: `27.0 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..UNITS.len() - 1).find(|&i| n >> (10 * i) < 1024).unwrap_or(UNITS.len() - 1);
    match step {
        0 => format!("{n} B"),
        _ => format!("{:.1} {}", n as f64 / (1u64 << (10 * step)) as f64, UNITS[step]),
    }
}

/// Floating-point operations for people: `803.3 GFLOP`.
pub fn flop(n: u64) -> String {
    match n {
        0..1_000_000_000 => format!("{:.1} MFLOP", n as f64 / 1e6),
        1_000_000_000..1_000_000_000_000 => format!("{:.1} GFLOP", n as f64 / 1e9),
        _ => format!("{:.3} TFLOP", n as f64 / 1e12),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut() {
        assert_eq!(cut("π is round", 10), "π is round");
        assert_eq!(cut("π is rounder", 10), "π is roun…");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(27 << 20), "27.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(flop(803_300_000_000), "803.3 GFLOP");
    }
}
