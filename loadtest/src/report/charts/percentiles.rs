//! The share of deliveries that took at most so long, with the tail drawn as wide as the rest.

use hdrhistogram::Histogram;

use super::{Figure, log_and_linear};
use crate::report::plot::{Axis, Layer, Line, Plot, Point, Scale};
use crate::report::quantity::{count, is_never, ms_unit, plain};
use crate::result::{self, RunResult};

const TITLE: &str = "Latency by percentile";
const LOWEST: f64 = 0.5;
const HIGHEST: f64 = 0.999999;
/// Points per decade of the tail.
const DENSITY: usize = 40;
const MARKED: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

pub fn curve(result: &RunResult) -> Option<Figure> {
    let histogram = result::decode(result.histogram.as_deref()?).filter(|histogram| !histogram.is_empty())?;
    let at = |share: f64| histogram.value_at_quantile(share) as f64 / 1000.0;
    let shares = shares(histogram.len());
    let points: Vec<Point> =
        shares.iter().map(|share| Point { x: *share, y: Some(at(*share)).filter(|ms| !is_never(*ms)) }).collect();
    let never_from = shares.iter().copied().find(|share| is_never(at(*share)));
    let highest = points.iter().filter_map(|point| point.y).fold(0.0, f64::max);
    let lowest = points.iter().find_map(|point| point.y).unwrap_or(1.0);
    let end = shares.last().copied().unwrap_or(LOWEST).max(0.9);
    let drawings = log_and_linear(lowest.max(0.001), highest.max(0.001), |scale| {
        let mut layers = Vec::new();
        layers.extend(never_from.map(|x| Layer::BeyondFrom { name: "never came", x }));
        layers.push(Layer::Line(Line { name: "latency".to_owned(), class: "s1", points: points.clone() }));
        layers.extend(marks(&points));
        Plot {
            label: format!("{TITLE} (milliseconds)"),
            x: Axis { unit: "share of deliveries".to_owned(), scale: Scale::Tail { low: LOWEST, high: end }, ticks: 8 },
            y: Axis { unit: "milliseconds".to_owned(), scale, ticks: 6 },
            bands: Vec::new(),
            layers,
        }
    });
    let read = |share: &f64| {
        let (shown, ms) = (precise(*share), at(*share));
        let text =
            if is_never(ms) { format!("{shown} %: never came") } else { format!("{shown} % within {}", ms_unit(ms)) };
        (*share, text)
    };
    let reads = shares.iter().map(read).collect();
    Some(Figure { title: TITLE, summary: summary(&histogram, never_from), drawings, reads })
}

fn summary(histogram: &Histogram<u64>, never_from: Option<f64>) -> String {
    let all = count(histogram.len());
    match never_from {
        None => {
            let slowest = ms_unit(histogram.max() as f64 / 1000.0);
            format!("From the intended time until shown, {all} deliveries; the slowest took {slowest}.")
        }
        Some(_) => {
            let never = histogram.iter_recorded().filter(|value| is_never(value.value_iterated_to() as f64 / 1000.0));
            let never: u64 = never.map(|value| value.count_at_value()).sum();
            format!("From the intended time until shown, {all} deliveries, of which {} never came.", count(never))
        }
    }
}

/// From the median to the last delivery: a share beyond which there is none says nothing.
fn shares(deliveries: u64) -> Vec<f64> {
    let end = (1.0 - 1.0 / deliveries.max(2) as f64).clamp(LOWEST, HIGHEST);
    let decades = |share: f64| -(1.0 - share).log10();
    let (from, to) = (decades(LOWEST), decades(end));
    let steps = (((to - from) * DENSITY as f64).ceil() as usize).max(1);
    let mut shares: Vec<f64> =
        (0..=steps).map(|step| 1.0 - 10f64.powf(-(from + (to - from) * step as f64 / steps as f64))).collect();
    shares.extend(MARKED.iter().filter(|marked| **marked < end));
    shares.sort_by(f64::total_cmp);
    shares.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
    shares
}

fn marks(points: &[Point]) -> impl Iterator<Item = Layer> + '_ {
    let marked = |point: &&Point| MARKED.iter().any(|share| (share - point.x).abs() < 1e-9);
    points.iter().filter(marked).filter_map(|point| {
        let y = point.y?;
        Some(Layer::Mark { x: point.x, y, text: ms_unit(y) })
    })
}

/// As many digits as tell the share from 100 %.
fn precise(share: f64) -> String {
    let digits = (-(1.0 - share).log10()).ceil().clamp(1.0, 7.0);
    let scale = 10f64.powf(digits);
    plain((share * 100.0 * scale / 10.0).floor() / (scale / 10.0))
}
