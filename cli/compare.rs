//! `muybridge compare`

use std::path::PathBuf;
use std::process::ExitCode;

use muybridge::profiling::Report;
use muybridge::profiling::compare::{Change, Comparison, compare};
use muybridge::profiling::groups::By;

use crate::Failure;
use crate::table::{Table, say, tell};

/// Options of the verb.
#[derive(clap::Args)]
pub struct Args {
    /// What muybridge profile --json wrote before the change
    before: PathBuf,
    /// What it wrote after the change
    after: PathBuf,
    /// What nodes are taken together by: op, block, shape or node
    #[arg(long, default_value = "shape", value_name = "NAME")]
    by: Grouping,
    /// Exit with 1 if a run, or a group with 1 % of its time, is slower by more than this beyond doubt: 5%
    #[arg(long, value_name = "PERCENT")]
    fail_above: Option<Percent>,
    /// Rows of the table; 0 shows all
    #[arg(long, default_value_t = 20, value_name = "N")]
    rows: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A part in per cent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Percent(f64);

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Percent, String> {
        let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>();
        let number = number.ok().filter(|v| v.is_finite() && *v >= 0.0);
        number.map(|v| Percent(v / 100.0)).ok_or_else(|| format!("{text:?} is no percentage such as 5%"))
    }
}

/// Names of groupings.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Grouping {
    Op,
    Block,
    Shape,
    Node,
}

/// Compares two profiles. Exits with 1 if the later is slower than allowed.
pub fn execute(args: &Args) -> Result<ExitCode, Failure> {
    let (before, after) = (Report::load(&args.before)?, Report::load(&args.after)?);
    let by = match args.by {
        Grouping::Op => By::Op,
        Grouping::Block => By::Block,
        Grouping::Shape => By::Shape,
        Grouping::Node => By::Node,
    };
    let found = compare(&before, &after, by);
    if args.json {
        say!("{}", serde_json::to_string(&found)?);
    } else {
        print(&found, args.rows);
    }
    let Some(Percent(above)) = args.fail_above else { return Ok(ExitCode::SUCCESS) };
    let failures = found.failures(above);
    for f in &failures {
        tell!("muybridge: {} is slower by more than {} %: {}", f.key, 100.0 * above, ratio(f));
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(found: &Comparison, rows: usize) {
    for remark in &found.remarks {
        say!("other {remark}");
    }
    let headings = [">before", ">after", ">ratio", "", ">share", "group"];
    let mut out = Table::new(&headings).within(100);
    let row = |c: &Change| {
        let verdict = match c.ratio {
            Some(r) if !r.is_clear() => "same",
            Some(r) if r.ratio > 1.0 => "slower",
            Some(_) => "faster",
            None if c.seconds[0] > 0.0 => "gone",
            None => "new",
        };
        let kernels = match &c.kernels {
            [a, b] if a != b && !a.is_empty() && !b.is_empty() => format!(" ({a} → {b})"),
            _ => String::new(),
        };
        let ms = |s: f64| if s > 0.0 { format!("{:.3} ms", s * 1e3) } else { "-".into() };
        let share = format!("{:.1}%", 100.0 * c.share);
        [ms(c.seconds[0]), ms(c.seconds[1]), ratio(c), verdict.into(), share, format!("{}{kernels}", c.key)]
    };
    out.row(row(&found.whole));
    out.row(row(&found.busy));
    let shown = if rows == 0 { found.changes.len() } else { rows };
    found.changes.iter().take(shown).for_each(|c| out.row(row(c)));
    out.print();
    if found.changes.len() > shown {
        say!("… {} more", found.changes.len() - shown);
    }
}

fn ratio(c: &Change) -> String {
    c.ratio.map_or("-".into(), |r| format!("{:.3} ± {:.3}", r.ratio, r.uncertainty))
}
