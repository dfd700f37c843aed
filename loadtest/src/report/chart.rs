//! Charts, as text of HTML and SVG: nothing is loaded, colours come from the page's style.

use std::fmt::Write;

/// A line of a chart: its name and its points, by rising x. It has the colour of its place, from 1.
pub struct Line {
    /// What the legend says.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A bar of a chart.
pub struct Bar {
    /// What stands before it.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// What stands behind it.
    pub note: String,
    /// The place of its colour, from 1.
    pub colour: u8,
}

/// What a chart's drawing measures, in its own units; the page scales it to its column.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
/// Room for what stands at the axes.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 38.0;
const GRID_LINES: u32 = 4;

/// Text as it may stand in HTML, in an attribute too.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Bars below each other, the longest as wide as there is room.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    bars_of(title, 0.0, bars)
}

/// Bars below each other; one of `whole`, or the longest if that is longer, is as wide as there is room.
pub fn bars_of(title: &str, whole: f64, bars: &[Bar]) -> String {
    let longest = bars.iter().map(|bar| bar.value).fold(whole, f64::max);
    let mut html = format!("<figure><figcaption>{}</figcaption><div class=\"bars\">", escape(title));
    for bar in bars {
        let percent = if longest > 0.0 { 100.0 * bar.value / longest } else { 0.0 };
        let _infallible = write!(
            html,
            "<span class=\"label\">{}</span><span class=\"track\"><span class=\"bar c{}\" style=\"width:{percent:.1}%\"></span></span>\
             <span class=\"note\">{}</span>",
            escape(&bar.label),
            bar.colour,
            escape(&bar.note)
        );
    }
    html.push_str("</div></figure>\n");
    html
}

/// Lines over one pair of axes, which begin at zero; `x_ticks` are places on the x axis with what stands there.
pub fn lines(title: &str, x_name: &str, y_name: &str, x_ticks: &[(f64, String)], lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| &line.points).chain([(0.0, 0.0)].iter());
    let ticks = x_ticks.iter().map(|(x, _)| *x);
    let x_max = points().map(|(x, _)| *x).chain(ticks).fold(f64::MIN_POSITIVE, f64::max);
    let y_max = nice(points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max));
    let x_at = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * x / x_max;
    let y_at = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / y_max;
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for step in 0..=GRID_LINES {
        let value = y_max * f64::from(step) / f64::from(GRID_LINES);
        let y = y_at(value);
        let _infallible = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 5.0,
            y + 4.0,
            number(value)
        );
    }
    for (x, label) in x_ticks {
        let _infallible = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            x_at(*x),
            HEIGHT - BOTTOM + 15.0,
            escape(label)
        );
    }
    let _infallible = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" class=\"axis\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 6.0,
        escape(x_name)
    );
    for (line, colour) in lines.iter().zip(1..) {
        let places: Vec<_> =
            line.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_at(*x), y_at(*y))).collect();
        let _infallible = write!(svg, "<polyline class=\"line s{colour}\" points=\"{}\"/>", places.join(" "));
        const DOTS_MAX: usize = 20;
        for (x, y) in line.points.iter().filter(|_| line.points.len() <= DOTS_MAX) {
            let _infallible = write!(
                svg,
                "<circle class=\"c{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
                x_at(*x),
                y_at(*y)
            );
        }
    }
    svg.push_str("</svg><div class=\"legend\">");
    let _infallible = write!(svg, "<span>{}</span>", escape(y_name));
    for (line, colour) in lines.iter().zip(1..) {
        let _infallible = write!(svg, "<span><i class=\"c{colour}\"></i>{}</span>", escape(&line.name));
    }
    svg.push_str("</div></figure>\n");
    svg
}

/// Some places from 0 to `max` with their numbers.
pub fn even_ticks(max: f64) -> Vec<(f64, String)> {
    let step = nice(max / 5.0).max(f64::MIN_POSITIVE);
    (0..=5).map(|n| f64::from(n) * step).filter(|x| *x <= max * 1.001).map(|x| (x, number(x))).collect()
}

/// The next number above that is easily divided.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= value * 0.999_999).unwrap_or(value)
}

/// Short enough for an axis.
fn number(value: f64) -> String {
    match value {
        10_000.0.. => format!("{}k", (value / 1e3 * 10.0).round() / 10.0),
        10.0.. => format!("{value:.0}"),
        _ => format!("{}", (value * 100.0).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_easy_numbers() {
        for (value, expected) in [(0.7, 0.8), (1.0, 1.0), (13.0, 16.0), (450.0, 500.0), (8_100.0, 10_000.0)] {
            assert!((nice(value) - expected).abs() < 1e-9, "{value}: {}", nice(value));
        }
        assert_eq!(number(12_500.0), "12.5k");
        assert_eq!(number(0.25), "0.25");
        assert_eq!(even_ticks(10.0).len(), 6);
    }

    #[test]
    fn a_line_is_drawn_from_corner_to_corner() {
        let line = Line { name: "a<b".to_owned(), points: vec![(0.0, 0.0), (4.0, 8.0)] };
        let svg = lines("t", "x", "y", &[], &[line]);
        assert!(svg.contains("points=\"52.0,202.0 396.0,10.0\""), "{svg}");
        assert!(svg.contains("a&lt;b"), "{svg}");
    }

    #[test]
    fn nothing_at_all_is_drawn_too() {
        let drawn = lines("t", "x", "y", &even_ticks(0.0), &[]) + &bars("t", &[]);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    }
}
