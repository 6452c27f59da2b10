//! CPU and memory of the watched processes, and of the generator, which must not be the bottleneck.

use super::timeline::{Read, Timeline, highest, values};
use super::{Figure, extent, over_time};
use crate::report::plot::{COLOURS, Layer, Line, Point, Scale};
use crate::report::quantity::{byte_unit, bytes, number, seconds};
use crate::result::{RunResult, Second};

/// Of the style sheet, in the order of the watched processes.
pub const CLASSES: [&str; COLOURS] = ["s1", "s2", "s3", "s4", "s5", "s6"];

type Series = Vec<(String, Vec<Point>)>;

pub fn cpu(timeline: &Timeline<'_>, result: &RunResult) -> Option<Figure> {
    let series =
        by_process(result, |process| timeline.mean(|second: &Second| second.cpu_percent.get(process).copied()))?;
    let (_, most) = extent(series.iter().flat_map(|(_, points)| values(points)))?;
    let percent = |value: f64| format!("{} %", number(value));
    let summary = format!("100 % is one core.{}{}", left_out(result), timeline.note("the mean"));
    Some(figure(
        timeline,
        "Server CPU",
        "percent of one core",
        Scale::from_zero(most, 1.0),
        series,
        (&percent, summary),
    ))
}

pub fn memory(timeline: &Timeline<'_>, result: &RunResult) -> Option<Figure> {
    let series = by_process(result, |process| {
        timeline.worst(|second: &Second| second.rss_bytes.get(process).map(|bytes| *bytes as f64))
    })?;
    let (_, most) = extent(series.iter().flat_map(|(_, points)| values(points)))?;
    let (unit, name) = byte_unit(most);
    let words = format!("{name} resident");
    let summary = format!("Highest: {}.{}{}", bytes(most), left_out(result), timeline.note("the highest"));
    Some(figure(timeline, "Server memory", &words, Scale::from_zero(most, unit), series, (&bytes, summary)))
}

pub fn generator(timeline: &Timeline<'_>) -> Option<Figure> {
    let points = timeline.mean(|second| Some(second.generator_cpu_percent));
    let (at, most) = highest(&points).filter(|(_, most)| *most > 0.0)?;
    let summary = format!(
        "The harness's busiest thread; near 100 % it measures itself. At most {} %, at {}.{}",
        number(most),
        seconds(at),
        timeline.note("the mean")
    );
    let percent = |value: f64| format!("{} %", number(value));
    let series = vec![("generator".to_owned(), points)];
    let scale = Scale::from_zero(most.max(100.0), 1.0);
    Some(figure(timeline, "Generator CPU", "percent of one core", scale, series, (&percent, summary)))
}

/// `None` unless some process was sampled.
fn by_process(result: &RunResult, points: impl Fn(usize) -> Vec<Point>) -> Option<Series> {
    let processes = &result.server.as_ref()?.processes;
    let named = processes.iter().enumerate().take(CLASSES.len());
    let series: Series = named.map(|(number, process)| (process.name.clone(), points(number))).collect();
    series.iter().any(|(_, points)| points.iter().any(|point| point.y.is_some())).then_some(series)
}

fn left_out(result: &RunResult) -> String {
    let processes = result.server.as_ref().map_or(0, |server| server.processes.len());
    match processes.saturating_sub(CLASSES.len()) {
        0 => String::new(),
        more => format!(" {more} more processes are in the table only."),
    }
}

fn figure(
    timeline: &Timeline<'_>,
    title: &'static str,
    unit: &str,
    scale: Scale,
    series: Series,
    (text, summary): (&dyn Fn(f64) -> String, String),
) -> Figure {
    let reads: Vec<Read<'_>> = match &series[..] {
        [(_, points)] => vec![Read::only(points, text)],
        several => several.iter().map(|(name, points)| Read::named(name, points, text)).collect(),
    };
    let reads = timeline.reads(&reads);
    let line = |((name, points), class)| Layer::Line(Line { name, class, points });
    let layers = series.into_iter().zip(CLASSES).map(line).collect();
    Figure::of(title, summary, over_time(timeline, title, unit, scale, layers), reads)
}
