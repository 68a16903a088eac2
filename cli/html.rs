//! Reports that are one file: text, tables, plots as SVG, pictures as data.

use std::fmt::Write;

/// Width of a plot, and of the room for its axes. It is scaled to the page.
const WIDTH: f64 = 640.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;

/// Colours that the style has for the parts of a plot.
const COLOURS: usize = 4;

const PAGE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");

/// A whole page. It opens from disk and asks the network for nothing.
pub fn page(title: &str, body: &str) -> String {
    let page = PAGE.replace("{{title}}", &escape(title)).replace("{{style}}", STYLE).replace("{{script}}", SCRIPT);
    // Last, so that no text of a clip is taken for a place to fill.
    page.replace("{{version}}", env!("CARGO_PKG_VERSION")).replacen("{{body}}", body, 1)
}

/// Text as it may stand in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A table, sorted by a click on a heading; headings that begin with `>` are of columns of numbers.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let number = |c: usize| if headings.get(c).is_some_and(|h| h.starts_with('>')) { " class=\"n\"" } else { "" };
    let mut out = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (c, heading) in headings.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", number(c), escape(heading.trim_start_matches('>')));
    }
    out.push_str("</tr></thead>\n<tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (c, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", number(c), escape(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

/// A part of a plot: its name and its points.
pub type Part<'a> = (&'a str, Vec<[f64; 2]>);

/// How the points of a part are drawn.
#[derive(Clone, Copy, PartialEq)]
pub enum Mark {
    /// Joined by a line.
    Line,
    /// As dots.
    Dot,
    /// As bars from 0, of this width.
    Bar(f64),
}

/// The values that a plot shows along one axis, and where their ends lie.
#[derive(Clone, Copy)]
struct Axis {
    values: [f64; 2],
    ends: [f64; 2],
}

impl Axis {
    fn place(&self, v: f64) -> f64 {
        let ([low, high], [from, to]) = (self.values, self.ends);
        from + (v - low) / (high - low) * (to - from)
    }

    /// Round values: steps of 1, 2 or 5 times a power of ten, so that there are about `count`.
    fn ticks(&self, count: f64) -> Vec<f64> {
        let [low, high] = self.values;
        let raw = (high - low) / count;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= raw).unwrap_or(raw);
        let first = (low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|v| *v <= high + 1e-9 * step).take(64).collect()
    }
}

/// A plot of some parts with a legend. `axes` name what lies across and what goes up.
pub fn plot(caption: &str, axes: [&str; 2], parts: &[Part<'_>], mark: Mark) -> String {
    let finite = |p: &&[f64; 2]| p.iter().all(|v| v.is_finite());
    let all: Vec<[f64; 2]> = parts.iter().flat_map(|(_, p)| p.iter().filter(finite).copied()).collect();
    let mut out = format!("<figure class=\"plot\"><figcaption>{}", escape(caption));
    for (i, (name, _)) in parts.iter().enumerate().filter(|_| parts.len() > 1) {
        let _ = write!(out, "<span class=\"key c{}\">{}</span>", i % COLOURS, escape(name));
    }
    out.push_str("</figcaption>");
    if all.is_empty() {
        return out + "<p>nothing to show</p></figure>\n";
    }
    let range = |axis: usize| {
        let low = all.iter().map(|p| p[axis]).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(|p| p[axis]).fold(f64::NEG_INFINITY, f64::max);
        match mark {
            Mark::Bar(_) if axis == 1 => [low.min(0.0), high.max(1e-12)],
            Mark::Bar(width) => [low, high + width],
            _ if high > low => [low, high],
            _ => [low - 0.5, low + 0.5],
        }
    };
    let height = if mark == Mark::Line { 220.0 } else { 400.0 };
    let across = Axis { values: range(0), ends: [LEFT, WIDTH - RIGHT] };
    let up = Axis { values: range(1), ends: [height - BOTTOM, TOP] };
    let ends = |a: Axis| format!("{} {} {} {}", a.values[0], a.values[1], a.ends[0], a.ends[1]);
    let [x_name, y_name] = axes.map(escape);
    let (x_ends, y_ends) = (ends(across), ends(up));
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\" data-x=\"{x_ends}\" data-y=\"{y_ends}\" \
         data-across=\"{x_name}\" data-up=\"{y_name}\">",
        escape(caption)
    );
    grid(&mut out, across, up, [&x_name, &y_name]);
    for (i, (name, points)) in parts.iter().enumerate() {
        let _ = write!(out, "<g class=\"c{}\" data-name=\"{}\">", i % COLOURS, escape(name));
        draw(&mut out, points, mark, across, up);
        out.push_str("</g>");
    }
    out + "</svg></figure>\n"
}

/// Lines and labels of both axes.
fn grid(out: &mut String, across: Axis, up: Axis, names: [&str; 2]) {
    let ([left, right], [foot, top]) = (across.ends, up.ends);
    for v in up.ticks(5.0) {
        let y = up.place(v);
        let _ = write!(out, "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = write!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", left - 7.0, y + 4.0, label(v));
    }
    for v in across.ticks(8.0) {
        let x = across.place(v);
        let _ = write!(out, "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{foot}\" y2=\"{}\"/>", foot + 4.0);
        let _ = write!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", foot + 16.0, label(v));
    }
    let (middle, low) = ((left + right) / 2.0, foot + 31.0);
    let _ = write!(out, "<text x=\"{middle}\" y=\"{low}\" text-anchor=\"middle\">{}</text>", names[0]);
    let (x, y) = (10.0, (foot + top) / 2.0);
    let turn = format!("rotate(-90 {x} {y})");
    let _ = write!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" transform=\"{turn}\">{}</text>", names[1]);
}

/// A round value as it stands at an axis.
fn label(v: f64) -> String {
    // Sums of steps miss round values by a rounding.
    let round = (v * 1e9).round() / 1e9;
    if v != 0.0 && (v.abs() >= 1e5 || v.abs() < 1e-4) { format!("{v:.0e}") } else { format!("{}", round + 0.0) }
}

fn draw(out: &mut String, points: &[[f64; 2]], mark: Mark, across: Axis, up: Axis) {
    let finite = points.iter().filter(|p| p.iter().all(|v| v.is_finite()));
    let (x, y) = (|v| across.place(v), |v| up.place(v));
    match mark {
        Mark::Line => {
            let places: Vec<String> = finite.map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[1]))).collect();
            let _ = write!(out, "<polyline points=\"{}\"/>", places.join(" "));
        }
        Mark::Dot => finite.for_each(|p| {
            let _ = write!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>", x(p[0]), y(p[1]));
        }),
        // An empty bin has no bar.
        Mark::Bar(width) => finite.filter(|p| p[1] != 0.0).for_each(|p| {
            let (left, right, top, foot) = (x(p[0]), x(p[0] + width), y(p[1]), y(0.0));
            let (w, h) = ((right - left - 0.5).max(0.5), (foot - top).max(0.0));
            let _ = write!(out, "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{h:.1}\"/>");
        }),
    }
}

/// Counts of values in equal bins over the range of all sets, as parts of a plot of shares, and the width of a bin.
pub fn histogram<'a>(sets: &[(&'a str, &[f32])], bins: usize) -> (Vec<Part<'a>>, f64) {
    let all = || sets.iter().flat_map(|(_, s)| s.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()));
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let width = if high > low { (high - low) / bins as f64 } else { 1.0 };
    let part = |(name, values): &(&'a str, &[f32])| {
        let mut counts = vec![0usize; bins];
        for v in values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()) {
            counts[(((v - low) / width) as usize).min(bins - 1)] += 1;
        }
        let total = values.len().max(1) as f64;
        let bar = |(i, n): (usize, &usize)| [low + i as f64 * width, *n as f64 / total];
        (*name, counts.iter().enumerate().map(bar).collect())
    };
    (sets.iter().map(part).collect(), width)
}

/// A number in four places or so.
pub fn short(v: f64) -> String {
    match v.abs() {
        a if a >= 1e5 || (a > 0.0 && a < 1e-3) => format!("{v:.2e}"),
        a if a >= 100.0 => format!("{v:.1}"),
        _ => format!("{v:.4}"),
    }
}

/// A PNG file's bytes as the source of an image.
pub fn data_uri(png: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::from("data:image/png;base64,");
    for three in png.chunks(3) {
        let word = three.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= three.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_its_published_vectors() {
        // RFC 4648, section 10.
        for (text, want) in
            [("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")]
        {
            assert_eq!(data_uri(text.as_bytes()).trim_start_matches("data:image/png;base64,"), want);
        }
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let page = page("<b>", &table(&["a", ">n"], &[vec!["<script>".into(), "1".into()]]));
        assert!(
            page.matches("<script>").count() == 1
                && page.contains("&lt;script&gt;")
                && page.contains("<td class=\"n\">1")
        );
        let parts = [("a<", vec![[0.0, 1.0], [1.0, f64::NAN]]), ("b", vec![])];
        let plot = plot("x", ["across", "up"], &parts, Mark::Line);
        assert!(plot.contains("a&lt;") && !plot.contains("NaN"));
    }

    #[test]
    fn axes_have_round_labels() {
        let of = |low, high| Axis { values: [low, high], ends: [0.0, 1.0] }.ticks(4.0);
        assert_eq!(of(0.0, 1.0), [0.0, 0.5, 1.0]);
        assert_eq!(of(-3.0, 9.0), [0.0, 5.0]);
        let labels: Vec<String> = of(0.61, 0.93).into_iter().map(label).collect();
        assert_eq!(labels, ["0.7", "0.8", "0.9"]);
        assert_eq!((label(-0.0), label(2e6), label(3e-7)), ("0".into(), "2e6".into(), "3e-7".into()));
    }

    #[test]
    fn every_value_falls_into_a_bin() {
        let (parts, width) = histogram(&[("a", &[0.0, 1.0, 0.5]), ("b", &[1.0])], 4);
        assert_eq!(width, 0.25);
        let shares: Vec<f64> = parts[0].1.iter().map(|p| p[1]).collect();
        assert_eq!(shares, [1.0 / 3.0, 0.0, 1.0 / 3.0, 1.0 / 3.0]);
        assert_eq!(histogram(&[("a", &[2.0])], 3).0[0].1[0][1], 1.0);
    }
}
