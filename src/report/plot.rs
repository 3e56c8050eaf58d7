//! Plots as SVG. Colours are those of the page's light style; its sheet exchanges them in the dark.

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::prelude::Cartesian2d;
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, IntoFont as _, RGBColor, TRANSPARENT, TextStyle};

use super::html::escape;
use crate::{Error, Result};

/// The colours of lines and bars; `page.css` has each twice, as `s0`, `s1` and so on.
pub(super) const SERIES: [RGBColor; 6] = [
    RGBColor(0x1f, 0x66, 0xb0),
    RGBColor(0xb2, 0x50, 0x0c),
    RGBColor(0x2a, 0x7d, 0x46),
    RGBColor(0x8a, 0x3f, 0xa0),
    RGBColor(0xa0, 0x76, 0x00),
    RGBColor(0x5f, 0x66, 0x70),
];

/// Texts.
const TEXT: RGBColor = RGBColor(0x1c, 0x21, 0x27);

/// Names of axes and what stands at their marks.
const QUIET: RGBColor = RGBColor(0x59, 0x63, 0x6e);

/// Axes and the lines of the grid.
const LINE: RGBColor = RGBColor(0xd5, 0xda, 0xe0);

/// Width and height of a plot, in units of a third of a pixel where it is shown at its natural size: coordinates are
/// whole numbers.
const SIZE: (u32, u32) = (1200, 660);

/// The height of letters.
const LETTERS: u32 = 46;

/// The same of a bar in the row of a table.
const BAR: (u32, u32) = (480, 54);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Axes<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A line of a plot.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Its place among the colours.
    pub(super) series: usize,
    /// Left to right.
    pub(super) points: Vec<(f64, f64)>,
    /// Whether the points are marked.
    pub(super) marked: bool,
    /// A point that stands out.
    pub(super) best: Option<(f64, f64)>,
}

/// A value with its interval.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    /// What stands below it.
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) interval: [f64; 2],
}

/// Lines over steps; `what` says it to who cannot see it.
pub(super) fn lines(what: &str, axis: &str, lines: &[Line]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let [left, right] = range(points().map(|(x, _)| x), 0.0);
    let [low, high] = range(points().map(|(_, y)| y), 0.06);
    draw(what, SIZE, |area| {
        let mut axes = axes(area, [left, right], [low, high])?;
        let decimals = decimals(high - low);
        axes.configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(LINE)
            .axis_style(LINE)
            .x_labels(5)
            .y_labels(5)
            .label_style(label(QUIET))
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.decimals$}"))
            .x_desc(axis)
            .axis_desc_style(label(QUIET))
            .draw()
            .map_err(fault)?;
        for line in lines {
            let colour = SERIES[line.series % SERIES.len()];
            let style = colour.stroke_width(5);
            axes.draw_series(LineSeries::new(line.points.iter().copied(), style)).map_err(fault)?;
            if line.marked {
                let marks = line.points.iter().map(|&at| Circle::new(at, 7, colour.filled()));
                axes.draw_series(marks).map_err(fault)?;
            }
            let best = line.best.iter().map(|&at| Circle::new(at, 18, colour.stroke_width(5)));
            axes.draw_series(best).map_err(fault)?;
        }
        Ok(())
    })
}

/// Bars from zero, upwards and downwards, with their intervals.
pub(super) fn differences(what: &str, axis: &str, bars: &[Bar]) -> Result<String> {
    let values = bars.iter().flat_map(|bar| [bar.value, bar.interval[0], bar.interval[1], 0.0]);
    let [low, high] = range(values, 0.08);
    draw(what, SIZE, |area| {
        let mut axes = axes(area, [-0.5, bars.len() as f64 - 0.5], [low, high])?;
        let decimals = decimals(high - low);
        axes.configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(LINE)
            .axis_style(LINE)
            .y_labels(5)
            .label_style(label(QUIET))
            .y_label_formatter(&|y| format!("{y:+.decimals$}"))
            .x_desc(axis)
            .axis_desc_style(label(QUIET))
            .draw()
            .map_err(fault)?;
        for (i, bar) in bars.iter().enumerate() {
            let (at, colour) = (i as f64, SERIES[usize::from(bar.value < 0.0)]);
            let corners = [(at - 0.3, 0.0), (at + 0.3, bar.value)];
            let filled = Rectangle::new(corners, colour.filled());
            let ends = bar.interval;
            let whisker = PathElement::new([(at, ends[0]), (at, ends[1])], TEXT.stroke_width(4));
            let cap =
                |y: f64| PathElement::new([(at - 0.08, y), (at + 0.08, y)], TEXT.stroke_width(4));
            axes.draw_series([filled]).map_err(fault)?;
            axes.draw_series([whisker, cap(ends[0]), cap(ends[1])]).map_err(fault)?;
            let (x, y) = axes.plotting_area().map_coordinate(&(at, low));
            let style = label(TEXT).pos(Pos::new(HPos::Center, VPos::Top));
            area.draw(&Text::new(bar.name.clone(), (x, y + 14), style)).map_err(fault)?;
        }
        let zero = [(-0.5, 0.0), (bars.len() as f64 - 0.5, 0.0)];
        axes.draw_series([PathElement::new(zero, QUIET.stroke_width(3))]).map_err(fault)?;
        Ok(())
    })
}

/// A bar for the row of a table, from zero to `value` on a scale that ends at `most`, and its interval.
pub(super) fn bar(series: usize, value: f64, interval: [f64; 2], most: f64) -> Result<String> {
    let most = if most > 0.0 { most } else { 1.0 };
    let (width, height) = (f64::from(BAR.0), BAR.1.cast_signed());
    let x = |value: f64| ((value / most).clamp(0.0, 1.0) * (width - 12.0)).round() as i32 + 6;
    draw("", BAR, |area| {
        let colour = SERIES[series % SERIES.len()];
        let whole = Rectangle::new([(x(0.0), 12), (x(value), height - 12)], colour.filled());
        area.draw(&whole).map_err(fault)?;
        if interval[0] >= interval[1] {
            return Ok(());
        }
        let [low, high] = interval.map(x);
        let middle = height / 2;
        let style = TEXT.stroke_width(4);
        area.draw(&PathElement::new([(low, middle), (high, middle)], style)).map_err(fault)?;
        for end in [low, high] {
            let cap = [(end, middle - 9), (end, middle + 9)];
            area.draw(&PathElement::new(cap, style)).map_err(fault)?;
        }
        Ok(())
    })
}

/// The markup of what `paint` draws.
fn draw(
    what: &str,
    size: (u32, u32),
    paint: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        paint(&area)?;
        area.present().map_err(fault)?;
    }
    // Within a page it needs no namespace, and its size is the page's matter.
    let inner = svg.split_once('>').map_or("", |(_, inner)| inner).replace('\n', "");
    let told = match what {
        "" => "aria-hidden=\"true\"".to_string(),
        _ => format!("role=\"img\" aria-label=\"{}\"", escape(what)),
    };
    Ok(format!("<svg viewBox=\"0 0 {} {}\" {told}>{inner}", size.0, size.1))
}

fn axes<'a, 'b>(area: &'a Area<'b>, x: [f64; 2], y: [f64; 2]) -> Result<Axes<'a, 'b>> {
    ChartBuilder::on(area)
        .margin_top(24)
        .margin_right(60)
        .x_label_area_size(120)
        .y_label_area_size(150)
        .build_cartesian_2d(x[0]..x[1], y[0]..y[1])
        .map_err(fault)
}

fn label(colour: RGBColor) -> TextStyle<'static> {
    let color = colour.to_backend_color();
    TextStyle { color, ..TextStyle::from(("sans-serif", LETTERS).into_font()) }
}

/// What holds all of `values`, with a share of it more at both ends.
fn range(values: impl Iterator<Item = f64>, more: f64) -> [f64; 2] {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return [0.0, 1.0];
    }
    let wide = high - low;
    // One value alone has no range of its own.
    let pad = if wide > 0.0 { wide * more } else { (low.abs() * 0.1).max(1e-6) };
    [low - pad, high + pad]
}

/// How many decimals tell the marks of an axis apart.
fn decimals(range: f64) -> usize {
    (1.0 - range.max(1e-6).log10()).ceil().clamp(0.0, 6.0) as usize
}

fn fault(error: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("a plot: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_markup_without_a_reference_and_says_what_it_shows() {
        let line = Line {
            series: 0,
            points: vec![(1.0, 2.0), (2.0, 1.0)],
            marked: true,
            best: Some((2.0, 1.0)),
        };
        let svg = lines("loss of <x>", "step", &[line]).unwrap();
        assert!(svg.starts_with("<svg viewBox=\"0 0 1200 660\" role=\"img\""), "{svg}");
        assert!(svg.ends_with("</svg>") && svg.contains("loss of &lt;x&gt;"), "{svg}");
        assert!(!svg.contains("http") && svg.contains("#1F66B0"), "{svg}");
    }

    #[test]
    fn values_that_are_all_alike_can_be_drawn() {
        let alike = |points: Vec<(f64, f64)>| Line { series: 9, points, marked: false, best: None };
        lines("", "step", &[alike(vec![(5.0, 0.0)])]).unwrap();
        lines("", "step", &[]).unwrap();
        let bar_of = |value: f64| Bar { name: "0".into(), value, interval: [value, value] };
        differences("", "items", &[bar_of(0.0)]).unwrap();
        bar(0, 0.0, [0.0, 0.0], 0.0).unwrap();
    }

    #[test]
    fn every_colour_has_one_for_the_dark() {
        let sheet = include_str!("page.css");
        for RGBColor(r, g, b) in SERIES.into_iter().chain([TEXT, QUIET, LINE]) {
            for what in ["fill", "stroke"] {
                let rule = format!("[{what}=\"#{r:02X}{g:02X}{b:02X}\"]");
                assert!(sheet.contains(&rule), "page.css lacks {rule}");
            }
        }
    }
}
