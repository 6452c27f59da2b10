//! What was published, what was delivered, how many connections stood.

use super::timeline::{Read, Timeline, highest, values};
use super::{Figure, extent, over_time};
use crate::report::plot::{Layer, Line, Point, Scale};
use crate::report::quantity::{count, number, seconds};
use crate::result::RunResult;

/// How far beyond the moment at which all stood the plot of the ramp goes.
const RAMP_SHOWN: f64 = 1.25;

pub fn published(timeline: &Timeline<'_>) -> Option<Figure> {
    let points = timeline.mean(|second| Some(second.published_per_second));
    single(timeline, "Published", "messages per second", points)
}

pub fn deliveries(timeline: &Timeline<'_>, result: &RunResult) -> Option<Figure> {
    result.deliveries.as_ref()?;
    let points = timeline.mean(|second| Some(second.deliveries_per_second));
    single(timeline, "Deliveries", "deliveries per second", points)
}

/// The ramp; the whole run where connections fell later, since that is as telling as their rise.
pub fn connections(result: &RunResult) -> Option<Figure> {
    let asked = result.connections.asked;
    if result.timeline.is_empty() || asked == 0 {
        return None;
    }
    let complete = result.timeline.iter().position(|second| second.established >= asked);
    let stood_s = complete.map(|place| result.timeline[place].at_s);
    let stayed =
        complete.is_some_and(|place| result.timeline[place..].iter().all(|second| second.established >= asked));
    let timeline = match stood_s {
        Some(at) if stayed => Timeline::until(result, (at * RAMP_SHOWN).max(at + 1.0).min(result.seconds.max(1.0))),
        _ => Timeline::new(result),
    };
    let points = timeline.mean(|second| Some(second.established as f64));
    let top = highest(&points).map_or(0.0, |(_, most)| most).max(asked as f64);
    let summary = match stood_s.map(seconds) {
        Some(at) if stayed => format!("All {} stood {at} after the run began, and stayed to its end.", count(asked)),
        Some(at) => format!("All {} stood {at} after the run began; some fell later.", count(asked)),
        None => format!("Asked for {}; they never all stood at once.", count(asked)),
    };
    let reads = timeline.reads(&[Read::only(&points, &|value| format!("{} stand", number(value)))]);
    let layers = vec![
        Layer::Level { name: "asked".to_owned(), class: "faint", y: asked as f64 },
        Layer::Line(Line { name: "stand".to_owned(), class: "s1", points }),
    ];
    let plot = over_time(&timeline, "Connections", "connections", Scale::from_zero(top, 1.0), layers);
    Some(Figure::of("Connections", summary + &timeline.note("the mean"), plot, reads))
}

fn single(timeline: &Timeline<'_>, title: &'static str, unit: &'static str, points: Vec<Point>) -> Option<Figure> {
    let (_, most) = extent(values(&points)).filter(|(_, most)| *most > 0.0)?;
    let summary = highest(&points)
        .map(|(at, most)| format!("At most {} {unit}, at {}.{}", number(most), seconds(at), timeline.note("the mean")))
        .unwrap_or_default();
    let reads = timeline.reads(&[Read::only(&points, &|value| format!("{} {unit}", number(value)))]);
    let layers = vec![Layer::Line(Line { name: title.to_owned(), class: "s1", points })];
    Some(Figure::of(title, summary, over_time(timeline, title, unit, Scale::from_zero(most, 1.0), layers), reads))
}
