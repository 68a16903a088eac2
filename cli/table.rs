//! Plain tables, numbers and sizes for the terminal.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use crate::Failure;

/// Prints a line as `println!` does, but where it cannot be written, that is no panic: [`written`] tells it.
macro_rules! say {
    ($($text:tt)*) => { crate::table::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Prints a line as `eprintln!` does, but where it cannot be written, that is no panic.
macro_rules! tell {
    ($($text:tt)*) => { crate::table::aside(format_args!($($text)*)) };
}
pub(crate) use tell;

/// Why the first line that got lost could not be written.
static LOST: OnceLock<String> = OnceLock::new();

/// What [`say!`] does.
pub fn line(text: Arguments<'_>) {
    kept(&writeln!(io::stdout().lock(), "{text}"));
}

/// What [`tell!`] does.
pub fn aside(text: Arguments<'_>) {
    // Nobody is left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether to print on. What went wrong is remembered, but for a reader that went away (`| head`).
fn kept(printed: &io::Result<()>) -> bool {
    if let Err(e) = printed
        && e.kind() != ErrorKind::BrokenPipe
    {
        LOST.get_or_init(|| e.to_string());
    }
    printed.is_ok()
}

/// Whether all that was printed arrived.
///
/// # Errors
/// A line of [`say!`] or a table could not be written (a full disk), and not because its reader went away.
pub fn written() -> Result<(), Failure> {
    LOST.get().map_or(Ok(()), |why| Err(Failure(format!("the output could not be written: {why}"))))
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

    /// Prints it; [`written`] tells where that failed.
    pub fn print(&self) {
        let mut out = io::stdout().lock();
        // All lines, or those up to the first that is lost.
        let _ = self.lines().all(|line| kept(&writeln!(out, "{line}")));
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(|c| width(c).min(WIDEST)).collect();
        self.rows.iter().map(move |row| {
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
            cut(line.join("  ").trim_end(), self.most)
        })
    }
}

/// Most columns that a cell is filled up to; a longer one stands out. Names from files have any length, and Rust pads to no more
/// than 65535.
const WIDEST: usize = 256;

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
    fn cells_of_any_length_are_set() {
        let mut table = Table::new(&["name", ">n"]);
        table.row(["é".repeat(70_000), "1".repeat(70_000)]);
        table.row(["a".into(), "2".into()]);
        let widths: Vec<usize> = table.lines().map(|l| l.chars().count()).collect();
        assert_eq!(widths, [WIDEST + 2 + WIDEST, 140_002, WIDEST + 2 + WIDEST]);
    }

    #[test]
    fn only_what_a_reader_misses_is_a_failure() {
        assert!(!kept(&Err(ErrorKind::BrokenPipe.into())));
        assert!(written().is_ok());
        assert!(!kept(&Err(ErrorKind::StorageFull.into())));
        assert!(written().is_err_and(|e| e.0.contains("could not be written")));
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
