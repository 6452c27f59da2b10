//! Latency of every second: what is usual, what is rare, what is worst.

use super::timeline::{Read, Timeline, highest, values};
use super::{Figure, extent, log_and_linear, over_time};
use crate::report::plot::{Layer, Line, Point};
use crate::report::quantity::{is_never, ms_unit, seconds};

const TITLE: &str = "Latency over time";

struct Series {
    name: &'static str,
    class: &'static str,
    points: Vec<Point>,
}

pub fn by_second(timeline: &Timeline<'_>) -> Option<Figure> {
    // From the worst to the usual, so that the usual is drawn on top.
    let series = [
        Series { name: "max", class: "faint", points: timeline.worst(|second| second.max_ms) },
        Series { name: "p99", class: "s2", points: timeline.worst(|second| second.p99_ms) },
        Series { name: "p50", class: "s1", points: timeline.worst(|second| second.p50_ms) },
    ];
    let never = places_of_never(&series);
    let finite = series.iter().flat_map(|series| values(&series.points)).filter(|value| !is_never(*value));
    let (lowest, most) = match extent(finite) {
        Some(extent) => extent,
        None if !never.is_empty() => (1.0, 1.0),
        None => return None,
    };
    let drawings = log_and_linear(lowest, most, |scale| {
        let mut layers: Vec<Layer> = series.iter().map(Series::line).collect();
        if !never.is_empty() {
            layers.push(Layer::Beyond { xs: never.clone() });
        }
        over_time(timeline, TITLE, "milliseconds", scale, layers)
    });
    let reads: Vec<Read<'_>> =
        series.iter().rev().map(|series| Read::named(series.name, &series.points, &ms_unit)).collect();
    let reads = timeline.reads(&reads);
    Some(Figure { title: TITLE, summary: summary(timeline, &series, &never), drawings, reads })
}

impl Series {
    fn line(&self) -> Layer {
        let finite = |point: &Point| Point { y: point.y.filter(|y| !is_never(*y)), ..*point };
        let points = self.points.iter().map(finite).collect();
        Layer::Line(Line { name: self.name.to_owned(), class: self.class, points })
    }
}

/// Where something never came: the worst of that second stands for it.
fn places_of_never(series: &[Series]) -> Vec<f64> {
    let never = |point: &&Point| point.y.is_some_and(is_never);
    let mut places: Vec<f64> =
        series.iter().flat_map(|series| series.points.iter().filter(never).map(|point| point.x)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    places
}

fn summary(timeline: &Timeline<'_>, series: &[Series], never: &[f64]) -> String {
    let worst = series.iter().find(|series| series.name == "p99").and_then(|series| {
        let finite = series.points.iter().filter(|point| point.y.is_some_and(|y| !is_never(y))).copied();
        highest(&finite.collect::<Vec<_>>())
    });
    let worst =
        worst.map_or(String::new(), |(at, value)| format!("Highest p99: {} at {}.", ms_unit(value), seconds(at)));
    let never = match never {
        [] => "",
        _ => " A triangle at the top: messages of that second never came.",
    };
    format!("By the second in which a message was to be sent. {worst}{never}{}", timeline.note("the worst"))
}
