//! Pure. One self-contained HTML page of one bench or of several: nothing is fetched, nothing runs.

use std::fmt::Write as _;

use crate::axis::human;
use crate::plot::{bars, chart, class, escaped};
use crate::report::{Report, Row, machine_line, shown};

/// Colours of the known subjects on a light ground and on a dark one. Others take turns with [`OTHERS`].
const COLOURS: [(&str, &str, &str); 5] = [
    ("none", "#7a8490", "#94a0ad"),
    ("iptables", "#a16207", "#d9a52b"),
    ("envoy", "#c2410c", "#fb8b4c"),
    ("culvert", "#0b7a70", "#2cc5b4"),
    ("culvert+waypoint", "#2b5fc7", "#7aa7ff"),
];
const OTHERS: [(&str, &str); 3] = [("#8b2fa3", "#d28be8"), ("#b3134f", "#ff7aa8"), ("#4d7c0f", "#a3d65c")];

/// How the page looks.
const STYLE: &str = "
:root{color-scheme:light dark;--ground:#fff;--card:#f6f7f8;--text:#1b1f24;--soft:#5b6570;--line:#dde1e6}
@media(prefers-color-scheme:dark){:root{--ground:#14171a;--card:#1d2126;--text:#e8ebee;--soft:#9aa5b1;--line:#343b43}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2.5rem 1.5rem 4rem;max-width:76rem;background:var(--ground);color:var(--text);
font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.3rem;margin:3rem 0 .3rem;border-top:1px solid var(--line);padding-top:2rem}
h3{font-size:.95rem;margin:0 0 .5rem}p{margin:.3rem 0;max-width:60rem}.soft{color:var(--soft);font-size:.9rem}
.warn{border-left:3px solid #c2410c;padding-left:.8rem}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:1rem 0;font-size:.9rem}
.legend span::before{content:'';display:inline-block;width:.8rem;height:.8rem;border-radius:2px;background:var(--c);margin-right:.4rem}
.grid-wide,.grid-small{display:grid;gap:1rem;margin:1rem 0}
.grid-wide{grid-template-columns:repeat(auto-fill,minmax(min(30rem,100%),1fr))}
.grid-small{grid-template-columns:repeat(auto-fill,minmax(min(21rem,100%),1fr))}
figure{margin:0;padding:1rem;background:var(--card);border-radius:8px}
svg{display:block;width:100%;height:auto;font-size:12px}
svg text{fill:var(--text)}svg .tick,svg .label{fill:var(--soft)}svg .name{fill:var(--c);font-weight:600}
.grid{stroke:var(--line)}.line{fill:none;stroke:var(--c);stroke-width:2}.dot,.bar{fill:var(--c)}
.whisker{stroke:var(--text);stroke-width:1.5;opacity:.65}
details{margin:1rem 0}summary{cursor:pointer}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;margin-top:.6rem}
th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
td.n,th.n{text-align:right}code{font-family:ui-monospace,'DejaVu Sans Mono',monospace}
";

/// The page. With several reports there is one section each.
pub fn page(title: &str, reports: &[Report]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{0}</title>\
         <style>{STYLE}{1}</style></head><body><h1>{0}</h1>",
        escaped(title),
        colours(reports)
    );
    for report in reports {
        section(&mut html, report, reports.len() > 1);
    }
    html + "</body></html>\n"
}

fn section(html: &mut String, report: &Report, headed: bool) {
    if headed {
        let _written = write!(html, "<h2>{}</h2>", escaped(&heading(&report.bench)));
    }
    let time = report.machine["time"].as_str().unwrap_or_default();
    let _written = write!(
        html,
        "<p class=\"soft\">{} · {} · <code>cargo xtask bench {}</code></p>",
        escaped(&machine_line(&report.machine)),
        escaped(time.split('.').next().unwrap_or_default()),
        escaped(&report.bench)
    );
    if report.machine["build"] == "debug" {
        html.push_str("<p class=\"warn\">Debug build: the figures of our own programs mean nothing.</p>");
    }
    for note in &report.notes {
        let _written = write!(html, "<p class=\"soft\">{}</p>", escaped(note));
    }
    legend(html, report);
    if !report.charts.is_empty() {
        html.push_str("<div class=\"grid-wide\">");
        for drawn in &report.charts {
            let _written = write!(html, "<figure><h3>{}</h3>{}</figure>", escaped(&drawn.title), chart(drawn));
        }
        html.push_str("</div>");
    }
    html.push_str("<div class=\"grid-small\">");
    for rows in by_measure(&report.rows) {
        let measure = &rows[0].measure;
        if report.is_shown(measure) {
            let _written = write!(html, "<figure><h3>{}</h3>{}", escaped(&words(measure)), bars(&rows));
            let ratios = ratios(report, measure);
            if !ratios.is_empty() {
                let _written = write!(html, "<p class=\"soft\">{}</p>", escaped(&ratios));
            }
            html.push_str("</figure>");
        }
    }
    html.push_str("</div>");
    table(html, report);
}

fn legend(html: &mut String, report: &Report) {
    html.push_str("<div class=\"legend\">");
    for subject in subjects(std::slice::from_ref(report)) {
        let _written = write!(html, "<span class=\"{}\">{}</span>", class(&subject), escaped(&subject));
    }
    html.push_str("</div>");
}

fn table(html: &mut String, report: &Report) {
    html.push_str(
        "<details><summary>All figures</summary><div class=\"scroll\"><table><tr><th>measure</th><th>subject</th>\
         <th class=\"n\">median</th><th class=\"n\">min</th><th class=\"n\">max</th><th class=\"n\">n</th><th>ratio</th></tr>",
    );
    for row in &report.rows {
        let ratios: Vec<String> = report
            .ratios
            .iter()
            .filter(|ratio| ratio.measure == row.measure && ratio.subject == row.subject)
            .map(|ratio| format!("{} of {}", shown(ratio.ratio), ratio.against))
            .collect();
        let _written = write!(
            html,
            "<tr><td><code>{}</code></td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escaped(&row.measure),
            escaped(&row.subject),
            human(row.median, &row.unit),
            human(row.min, &row.unit),
            human(row.max, &row.unit),
            row.n,
            escaped(&ratios.join(", "))
        );
    }
    html.push_str("</table></div></details>");
}

fn heading(bench: &str) -> String {
    match bench {
        "memory" => "Memory of a node".to_owned(),
        "tunnel" => "The tunnel between two nodes".to_owned(),
        "capture" => "Capture".to_owned(),
        "waypoint" => "The waypoint".to_owned(),
        other => other.to_owned(),
    }
}

/// `culvert is 0.28 of envoy` for one measure.
fn ratios(report: &Report, measure: &str) -> String {
    let said: Vec<String> = report
        .ratios
        .iter()
        .filter(|ratio| ratio.measure == measure && ratio.against != "none")
        .map(|ratio| format!("{} is {} of {}", ratio.subject, shown(ratio.ratio), ratio.against))
        .collect();
    said.join(" · ")
}

/// Rows of one measure together, in their order.
fn by_measure(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        match groups.iter_mut().find(|group| group[0].measure == row.measure) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// A measure's name as words.
fn words(measure: &str) -> String {
    let said: Vec<String> = measure
        .split('_')
        .map(|word| match word {
            "p50" => "median",
            "p99" => "99th percentile",
            "cpu" => "CPU",
            "extrapolated" => "extrapolated:",
            "load70" => "at 70 % load,",
            "rss" => "RSS",
            "pss" => "PSS",
            "added" => "added over no mesh",
            other => other,
        })
        .map(|word| match (word.chars().next(), word.get(1..).map(str::parse::<u32>)) {
            (Some('s'), Some(Ok(services))) => format!("· {services} services"),
            (Some('n'), Some(Ok(pods))) => format!("· {pods} pods"),
            _ => word.to_owned(),
        })
        .collect();
    said.join(" ")
}

fn subjects(reports: &[Report]) -> Vec<String> {
    let rows = reports.iter().flat_map(|report| report.rows.iter().map(|row| &row.subject));
    let lines = reports.iter().flat_map(|report| report.charts.iter().flat_map(|c| c.lines.iter().map(|l| &l.subject)));
    let mut found: Vec<String> = Vec::new();
    for subject in rows.chain(lines) {
        if !found.contains(subject) {
            found.push(subject.clone());
        }
    }
    let rank = |name: &String| COLOURS.iter().position(|(known, ..)| known == name).unwrap_or(COLOURS.len());
    found.sort_by_key(rank);
    found
}

fn colours(reports: &[Report]) -> String {
    let (mut light, mut dark, mut next) = (String::new(), String::new(), 0);
    for subject in subjects(reports) {
        let known = COLOURS.iter().find(|(name, ..)| *name == subject).map(|(_, light, dark)| (*light, *dark));
        let (on_light, on_dark) = known.unwrap_or_else(|| {
            next += 1;
            OTHERS[(next - 1) % OTHERS.len()]
        });
        let class = class(&subject);
        let _written = write!(light, ".{class}{{--c:{on_light}}}");
        let _written = write!(dark, ".{class}{{--c:{on_dark}}}");
    }
    format!("{light}@media(prefers-color-scheme:dark){{{dark}}}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Axes, Chart, Line, Ratio};

    fn report() -> Report {
        let row = |subject: &str, median: f64| Row {
            measure: "requests_p99".into(),
            unit: "us".into(),
            subject: subject.into(),
            n: 3,
            min: median,
            median,
            max: median,
        };
        Report {
            bench: "tunnel".into(),
            machine: serde_json::json!({"cores": 2, "cpu": "X & Y", "kernel": "6", "load": 0.1, "build": "release"}),
            rows: vec![row("envoy", 400.0), row("culvert", 200.0)],
            ratios: vec![Ratio {
                measure: "requests_p99".into(),
                subject: "culvert".into(),
                against: "envoy".into(),
                ratio: 0.5,
            }],
            charts: vec![Chart {
                title: "times".into(),
                x: "share".into(),
                y: "µs".into(),
                axes: Axes::Quantiles,
                lines: vec![Line { subject: "culvert".into(), points: vec![(0.5, 100.0), (0.99, 200.0)] }],
            }],
            ..Report::default()
        }
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let html = page("Culvert: tunnel", &[report()]);
        for word in ["http:", "https:", "<script", "url(", "@import", "src="] {
            assert!(!html.contains(word), "{word}");
        }
        assert!(html.contains("X &amp; Y"));
        assert_eq!(html.matches("<svg").count(), 2);
        assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    }

    #[test]
    fn a_page_says_the_ratio_and_the_value_under_each_measure() {
        let html = page("t", &[report()]);
        assert!(html.contains("requests 99th percentile") && html.contains("culvert is 0.500 of envoy"), "{html}");
        assert!(html.contains("200 µs") && html.contains("400 µs"));
    }

    #[test]
    fn a_measures_name_is_said_in_words() {
        assert_eq!(words("idle_pss_s100_n25"), "idle PSS · 100 services · 25 pods");
        assert_eq!(words("load70_p99_added"), "at 70 % load, 99th percentile added over no mesh");
    }

    #[test]
    fn several_benches_get_a_section_each() {
        let html = page("t", &[report(), Report { bench: "memory".into(), ..report() }]);
        assert!(html.contains("<h2>Memory of a node</h2>") && html.contains("<h2>The tunnel between two nodes</h2>"));
    }

    #[test]
    fn a_debug_build_says_so() {
        let mut debug = report();
        debug.machine["build"] = "debug".into();
        assert!(page("t", &[debug]).contains("Debug build"));
        assert!(!page("t", &[report()]).contains("Debug build"));
    }

    #[test]
    fn an_unknown_subject_gets_a_colour_too() {
        let mut strange = report();
        strange.rows[0].subject = "my proxy".into();
        assert!(page("t", &[strange]).contains(".s-my-proxy{--c:#8b2fa3}"));
    }
}
