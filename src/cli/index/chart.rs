//! Small plots as SVG, coloured by the page's style.

use std::fmt::Write as _;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 34.0;

/// More bars than this are narrower than can be seen: neighbours share one.
const MOST_BARS: usize = 280;

/// A bar is no wider than this.
const WIDEST: f64 = 36.0;

/// One bar a value, from the left, with the values' range on the left and `names` of the ends below.
pub(super) fn bars(what: &str, axis: &str, names: [&str; 2], values: &[usize]) -> String {
    let each = values.len().div_ceil(MOST_BARS).max(1);
    let mean = |chunk: &[usize]| chunk.iter().sum::<usize>() as f64 / chunk.len() as f64;
    let heights: Vec<f64> = values.chunks(each).map(mean).collect();
    let most = heights.iter().copied().fold(0.0, f64::max);
    let mut svg = begin(what, axis, names, [0.0, most]);
    let step = (WIDTH - LEFT - RIGHT) / heights.len().max(1) as f64;
    let gap = if step > 4.0 { 1.0 } else { 0.0 };
    let width = (step - gap).min(WIDEST);
    for (i, value) in heights.iter().enumerate() {
        let height = (HEIGHT - TOP - BOTTOM) * value / most.max(1e-12);
        let x = LEFT + step * i as f64 + (step - width) / 2.0;
        let y = HEIGHT - BOTTOM - height;
        let _ =
            write!(svg, r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}"/>"#);
    }
    svg + "</svg>"
}

/// How many of `values` fall in each of a few equal ranges.
pub(super) fn histogram(values: &[usize], most_ranges: usize) -> (usize, usize, Vec<usize>) {
    let least = values.iter().copied().min().unwrap_or(0);
    let most = values.iter().copied().max().unwrap_or(0);
    let width = (most - least + 1).div_ceil(most_ranges);
    let mut counts = vec![0; (most - least) / width + 1];
    for value in values {
        counts[(value - least) / width] += 1;
    }
    (least, most, counts)
}

/// Points joined by a line, one a prefix length from 1, over a dashed line at `baseline`.
pub(super) fn points(what: &str, axis: &str, values: &[f64], baseline: Option<f64>) -> String {
    let all = || values.iter().copied().chain(baseline);
    let (low, high) =
        all().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let pad = ((high - low) * 0.15).max(0.01);
    // What is never negative has no axis below zero.
    let range = [if low >= 0.0 { (low - pad).max(0.0) } else { low - pad }, high + pad];
    let y = |value: f64| {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - range[0]) / (range[1] - range[0])
    };
    let x =
        |i: usize| LEFT + (WIDTH - LEFT - RIGHT) * (i as f64 + 0.5) / values.len().max(1) as f64;
    let mut svg = begin(what, axis, ["", ""], range);
    if let Some(value) = baseline {
        let (y, right) = (y(value), WIDTH - RIGHT);
        let _ =
            write!(svg, r#"<line class="base" x1="{LEFT}" x2="{right}" y1="{y:.2}" y2="{y:.2}"/>"#);
        let below = if y > HEIGHT - BOTTOM - 16.0 { y - 4.0 } else { y + 12.0 };
        let _ = write!(
            svg,
            r#"<text class="base" x="{right}" y="{below:.2}" text-anchor="end">strangers {value:.3}</text>"#
        );
    }
    let line: Vec<String> =
        values.iter().enumerate().map(|(i, v)| format!("{:.2},{:.2}", x(i), y(*v))).collect();
    let _ = write!(svg, r#"<polyline points="{}"/>"#, line.join(" "));
    for (i, value) in values.iter().enumerate() {
        let (x, y, below) = (x(i), y(*value), HEIGHT - BOTTOM + 13.0);
        let label = if y < TOP + 14.0 { y + 15.0 } else { y - 7.0 };
        let _ = write!(
            svg,
            r#"<circle cx="{x:.2}" cy="{y:.2}" r="3.5"/><text x="{x:.2}" y="{label:.2}" text-anchor="middle">{value:.3}</text><text class="axis" x="{x:.2}" y="{below}" text-anchor="middle">{}</text>"#,
            i + 1
        );
    }
    svg + "</svg>"
}

/// The frame: what it shows, the axes, and the range of values on the left.
fn begin(what: &str, axis: &str, names: [&str; 2], range: [f64; 2]) -> String {
    let (bottom, right, middle) = (HEIGHT - BOTTOM, WIDTH - RIGHT, (LEFT + WIDTH - RIGHT) / 2.0);
    let shown = |value: f64| {
        if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.2}") }
    };
    let (low, high) = (shown(range[0]), shown(range[1]));
    let (edge, names_y, axis_y) = (LEFT - 5.0, bottom + 13.0, HEIGHT - 4.0);
    format!(
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{what}"><line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/><line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{bottom}"/><text class="axis" x="{edge}" y="{bottom}" text-anchor="end">{low}</text><text class="axis" x="{edge}" y="{}" text-anchor="end">{high}</text><text class="axis" x="{LEFT}" y="{names_y}">{}</text><text class="axis" x="{right}" y="{names_y}" text-anchor="end">{}</text><text class="axis" x="{middle}" y="{axis_y}" text-anchor="middle">{axis}</text>"#,
        TOP + 8.0,
        names[0],
        names[1]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_every_value_once() {
        let (least, most, counts) = histogram(&[3, 4, 4, 9, 12], 5);
        assert_eq!((least, most, counts), (3, 12, vec![3, 0, 0, 1, 1]));
        assert_eq!(histogram(&[7, 7], 5), (7, 7, vec![2]));
        assert_eq!(histogram(&[], 5).2, [0]);
    }
}
