//! Pure. Plots as SVG. Colours come from the page: a mark carries the class of its subject.

use std::fmt::Write as _;

use crate::axis::{Axis, Kind, human, plain, time};
use crate::report::{Axes, Chart, Row};

/// Width of a chart and height, in its own units.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
/// Space around the drawing: left for numbers, right for names.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 128.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;
/// Height of one bar with its space.
const BAR: f64 = 28.0;

/// The class that gives a subject its colour.
pub fn class(subject: &str) -> String {
    let safe: String = subject.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("s-{safe}")
}

/// Text that is safe inside an element or an attribute.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Lines over an axis, each with its subject's name at its end.
pub fn chart(chart: &Chart) -> String {
    let (across, up) = match chart.axes {
        Axes::Linear => (Kind::Linear, Kind::Linear),
        Axes::Quantiles => (Kind::Nines, Kind::Times),
    };
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let x = Axis::over(across, points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let y = Axis::over(up, points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(&chart.title));
    grid(&mut svg, chart, &x, &y);
    for line in &chart.lines {
        let path: Vec<String> = line.points.iter().map(|(a, b)| format!("{:.1},{:.1}", x.at(*a), y.at(*b))).collect();
        let _written = write!(svg, "<polyline class=\"line {}\" points=\"{}\"/>", class(&line.subject), path.join(" "));
        for (a, b) in &line.points {
            let _written = write!(
                svg,
                "<circle class=\"dot {}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}: {} at {}</title></circle>",
                class(&line.subject),
                x.at(*a),
                y.at(*b),
                escaped(&line.subject),
                if up == Kind::Times { time(*b) } else { format!("{} {}", plain(*b), escaped(&chart.y)) },
                if across == Kind::Nines { format!("{:.1} %", a * 100.0) } else { plain(*a) },
            );
        }
    }
    names(&mut svg, chart, &y);
    svg + "</svg>"
}

fn grid(svg: &mut String, chart: &Chart, x: &Axis, y: &Axis) {
    for (value, name) in y.ticks() {
        let at = y.at(value);
        let _written = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for (value, name) in x.ticks() {
        let at = x.at(value);
        let _written = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
             <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 4.0,
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _written = write!(
        svg,
        "<text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text class=\"label\" x=\"{:.1}\" y=\"14\" text-anchor=\"end\">{}</text>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 8.0,
        escaped(&chart.x),
        LEFT - 8.0,
        escaped(&chart.y)
    );
}

/// Names at the ends of the lines, moved apart where they would lie over one another.
fn names(svg: &mut String, chart: &Chart, y: &Axis) {
    let mut ends: Vec<(f64, &str)> =
        chart.lines.iter().filter_map(|line| Some((y.at(line.points.last()?.1), line.subject.as_str()))).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    // From the bottom up: the lowest may not leave the drawing.
    let mut floor = HEIGHT - BOTTOM + 4.0;
    for end in ends.iter_mut().rev() {
        end.0 = end.0.min(floor);
        floor = end.0 - 15.0;
    }
    for (at, subject) in ends {
        let _written = write!(
            svg,
            "<text class=\"name {}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            class(subject),
            WIDTH - RIGHT + 10.0,
            at + 4.0,
            escaped(subject)
        );
    }
}

/// One bar per subject for one measure: the median, with a whisker from the smallest value to the largest.
pub fn bars(rows: &[&Row]) -> String {
    let height = BAR * rows.len() as f64 + 4.0;
    let (width, left, right) = (420.0, 116.0, 104.0);
    let ends = rows.iter().flat_map(|row| [row.median, row.median.max(row.max.min(row.median * 3.0))]);
    let x = Axis::over(Kind::Linear, ends, left, width - right);
    let mut svg = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">");
    for (index, row) in rows.iter().enumerate() {
        let top = BAR * index as f64 + 6.0;
        let middle = top + 8.0;
        let (zero, end) = (x.at(0.0), x.at(row.median));
        let _written = write!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"bar {}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"16\" rx=\"2\">\
             <title>{} to {}, {} values</title></rect>",
            left - 8.0,
            middle + 4.0,
            escaped(&row.subject),
            class(&row.subject),
            zero.min(end),
            (end - zero).abs().max(1.0),
            human(row.min, &row.unit),
            human(row.max, &row.unit),
            row.n,
        );
        if row.n > 1 {
            let _written = write!(
                svg,
                "<line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>",
                x.at(row.min),
                x.at(row.max)
            );
        }
        let _written = write!(
            svg,
            "<text class=\"value\" x=\"{width}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            middle + 4.0,
            human(row.median, &row.unit)
        );
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Line;

    fn row(subject: &str, median: f64) -> Row {
        Row {
            measure: "requests".into(),
            unit: "1/s".into(),
            subject: subject.into(),
            n: 3,
            min: median * 0.9,
            median,
            max: median * 1.1,
        }
    }

    fn attribute(svg: &str, after: &str, name: &str) -> f64 {
        let rest = &svg[svg.find(after).unwrap()..];
        let rest = &rest[rest.find(&format!(" {name}=\"")).unwrap() + name.len() + 3..];
        rest[..rest.find('"').unwrap()].parse().unwrap()
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let (a, b) = (row("envoy", 100.0), row("culvert", 200.0));
        let svg = bars(&[&a, &b]);
        let (short, long) = (attribute(&svg, "bar s-envoy", "width"), attribute(&svg, "bar s-culvert", "width"));
        assert!((long / short - 2.0).abs() < 0.02, "{short} {long}");
    }

    #[test]
    fn names_at_the_ends_of_lines_keep_apart() {
        let line = |subject: &str, end: f64| Line { subject: subject.into(), points: vec![(0.0, 0.0), (10.0, end)] };
        let svg = chart(&Chart {
            title: "t".into(),
            x: "pods".into(),
            y: "MiB".into(),
            axes: Axes::Linear,
            lines: vec![line("a", 1.0), line("b", 1.1), line("c", 100.0)],
        });
        let (a, b) = (attribute(&svg, "name s-a", "y"), attribute(&svg, "name s-b", "y"));
        assert!(a - b >= 14.9, "{a} {b}");
        assert!(svg.contains("pods") && svg.contains("MiB"));
    }

    #[test]
    fn text_cannot_become_markup() {
        let evil = row("<script>\"", 1.0);
        let svg = bars(&[&evil]);
        assert!(!svg.contains("<script") && svg.contains("s--script--"), "{svg}");
    }
}
