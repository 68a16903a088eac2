//! Reports that are one file: text, tables, plots as SVG, pictures as data.

use std::fmt::Write;

/// Width and height of a plot, and of the room for its axes.
const PLOT: [f64; 2] = [640.0, 220.0];
const MARGIN: f64 = 44.0;

/// Colours of the parts of a plot, legible to the colour-blind (Okabe and Ito).
pub const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}figure{margin:1em 0}figcaption{color:#555}\
.bad{color:#b00}.pair img{max-width:48%;image-rendering:pixelated;min-width:160px}svg text{font:12px system-ui,sans-serif}";

/// A whole page.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1>\n{body}</html>\n"
    )
}

/// Text as it may stand in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A table; headings that begin with `>` are of columns of numbers.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let number = |c: usize| if headings.get(c).is_some_and(|h| h.starts_with('>')) { " class=\"n\"" } else { "" };
    let mut out = String::from("<table><tr>");
    for (c, heading) in headings.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", number(c), escape(heading.trim_start_matches('>')));
    }
    out.push_str("</tr>\n");
    for row in rows {
        out.push_str("<tr>");
        for (c, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", number(c), escape(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n");
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

/// A plot of some parts with a legend.
pub fn plot(caption: &str, parts: &[Part<'_>], mark: Mark) -> String {
    let finite = |p: &&[f64; 2]| p.iter().all(|v| v.is_finite());
    let all: Vec<[f64; 2]> = parts.iter().flat_map(|(_, p)| p.iter().filter(finite).copied()).collect();
    let range = |axis: usize| {
        let low = all.iter().map(|p| p[axis]).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(|p| p[axis]).fold(f64::NEG_INFINITY, f64::max);
        let low = if axis == 1 && matches!(mark, Mark::Bar(_)) { low.min(0.0) } else { low };
        if high > low { [low, high] } else { [low - 0.5, low + 0.5] }
    };
    let mut out = format!("<figure><figcaption>{}</figcaption>", escape(caption));
    if all.is_empty() {
        return out + "<p>nothing to show</p></figure>\n";
    }
    let (x_range, y_range) = (range(0), range(1));
    let x = |v: f64| MARGIN + (v - x_range[0]) / (x_range[1] - x_range[0]) * (PLOT[0] - 1.5 * MARGIN);
    let y = |v: f64| PLOT[1] - 24.0 - (v - y_range[0]) / (y_range[1] - y_range[0]) * (PLOT[1] - 48.0);
    let [w, h] = PLOT;
    let _ = write!(out, "<svg viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\">");
    for (v, at) in y_range.iter().map(|v| (*v, y(*v))) {
        let _ = write!(out, "<text x=\"2\" y=\"{at:.1}\">{}</text>", short(v));
        let _ = write!(out, "<line x1=\"{MARGIN}\" x2=\"{w}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>");
    }
    for (v, anchor) in x_range.iter().zip(["start", "end"]) {
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>", x(*v), h - 6.0, short(*v));
    }
    for (i, (name, points)) in parts.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        draw(&mut out, points, mark, colour, &x, &y);
        let left = MARGIN + 150.0 * i as f64;
        let _ = write!(out, "<text x=\"{left}\" y=\"14\" fill=\"{colour}\">&#9632; {}</text>", escape(name));
    }
    out + "</svg></figure>\n"
}

fn draw(
    out: &mut String,
    points: &[[f64; 2]],
    mark: Mark,
    colour: &str,
    x: &dyn Fn(f64) -> f64,
    y: &dyn Fn(f64) -> f64,
) {
    let finite = points.iter().filter(|p| p.iter().all(|v| v.is_finite()));
    match mark {
        Mark::Line => {
            let places: Vec<String> = finite.map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[1]))).collect();
            let _ = write!(out, "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"/>", places.join(" "));
        }
        Mark::Dot => finite.for_each(|p| {
            let (x, y) = (x(p[0]), y(p[1]));
            let _ = write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\" fill=\"{colour}\" fill-opacity=\".5\"/>");
        }),
        Mark::Bar(width) => finite.for_each(|p| {
            let (left, right, top, foot) = (x(p[0]), x(p[0] + width), y(p[1]), y(0.0));
            let (w, h) = ((right - left).max(0.5), (foot - top).max(0.0));
            let _ = write!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"{colour}\" fill-opacity=\".45\"/>"
            );
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
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;") && page.contains("<td class=\"n\">1"));
        let plot = plot("x", &[("a<", vec![[0.0, 1.0], [1.0, f64::NAN]])], Mark::Line);
        assert!(plot.contains("a&lt;") && !plot.contains("NaN"));
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
