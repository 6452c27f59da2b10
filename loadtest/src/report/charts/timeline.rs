//! The seconds of a run as points of a plot. Long runs are drawn by the worst or the mean of several seconds.

use crate::report::plot::{Axis, Band, Point, Scale};
use crate::report::quantity;
use crate::result::{RunResult, Second};

/// More points than that are closer together than a screen shows.
const POINTS_MAX: usize = 600;
/// Seconds further apart than this many times their distance have a gap between them.
const GAP: f64 = 1.75;

pub struct Timeline<'a> {
    result: &'a RunResult,
    /// Seconds of the run, several to a point in long runs.
    points: Vec<&'a [Second]>,
    seconds_per_point: usize,
    end_s: f64,
}

/// One series, as it is read out.
pub struct Read<'a> {
    before: String,
    points: &'a [Point],
    text: &'a dyn Fn(f64) -> String,
}

impl<'a> Read<'a> {
    /// The only series of its plot needs no name.
    pub fn only(points: &'a [Point], text: &'a dyn Fn(f64) -> String) -> Read<'a> {
        Read { before: String::new(), points, text }
    }

    pub fn named(name: &str, points: &'a [Point], text: &'a dyn Fn(f64) -> String) -> Read<'a> {
        Read { before: format!("{name} "), points, text }
    }
}

impl<'a> Timeline<'a> {
    pub fn new(result: &'a RunResult) -> Timeline<'a> {
        let ends = result.loads.iter().flat_map(|load| load.phases.iter().map(|phase| phase.to_s));
        let ends = ends.chain(result.timeline.last().map(|second| second.at_s));
        Timeline::until(result, ends.fold(result.seconds, f64::max).max(1.0))
    }

    /// Of the run's beginning only.
    pub fn until(result: &'a RunResult, end_s: f64) -> Timeline<'a> {
        let seconds = &result.timeline[..result.timeline.partition_point(|second| second.at_s <= end_s)];
        let seconds_per_point = seconds.len().div_ceil(POINTS_MAX).max(1);
        let bucket = |second: &Second| (second.at_s / seconds_per_point as f64).floor() as i64;
        let points = match seconds_per_point {
            1 => seconds.chunks(1).collect(),
            _ => seconds.chunk_by(|a, b| bucket(a) == bucket(b)).collect(),
        };
        Timeline { result, points, seconds_per_point, end_s }
    }

    pub fn axis(&self) -> Axis {
        let (unit, name) = if self.end_s > 300.0 { (60.0, "minutes") } else { (1.0, "seconds") };
        let scale = Scale::Linear { low: 0.0, high: self.end_s, unit };
        Axis { unit: format!("{name} since the run began"), scale, ticks: 7 }
    }

    pub fn bands(&self) -> Vec<Band> {
        let many = self.result.loads.iter().filter(|load| !load.phases.is_empty()).count() > 1;
        let mut bands: Vec<Band> = Vec::new();
        for load in &self.result.loads {
            for phase in &load.phases {
                let name = if many { format!("{}: {}", load.name, phase.name) } else { phase.name.clone() };
                bands.push(Band { name, short: phase.name.clone(), from: phase.from_s, to: phase.to_s });
            }
        }
        bands.retain(|band| band.from < self.end_s);
        bands.iter_mut().for_each(|band| band.to = band.to.min(self.end_s));
        bands.sort_by(|a, b| a.from.total_cmp(&b.from));
        bands
    }

    /// The highest of each point's seconds.
    pub fn worst(&self, value: impl Fn(&Second) -> Option<f64>) -> Vec<Point> {
        self.series(|seconds| seconds.iter().filter_map(&value).reduce(f64::max))
    }

    pub fn mean(&self, value: impl Fn(&Second) -> Option<f64>) -> Vec<Point> {
        self.series(|seconds| {
            let values: Vec<f64> = seconds.iter().filter_map(&value).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        })
    }

    /// What is read at each point: its time, its phases, and what the series say there. `None`: they say nothing.
    pub fn reads(&self, series: &[Read<'_>]) -> Vec<(f64, String)> {
        let bands = self.bands();
        let read = |seconds: &&[Second]| {
            let at = mid(seconds);
            let value = |points: &[Point]| {
                let place = points.partition_point(|point| point.x < at - 1e-9);
                points.get(place).filter(|point| (point.x - at).abs() < 1e-6).and_then(|point| point.y)
            };
            let said: Vec<String> = series
                .iter()
                .filter_map(|read| Some(format!("{}{}", read.before, (read.text)(value(read.points)?))))
                .collect();
            let said = if said.is_empty() { "nothing measured".to_owned() } else { said.join(" · ") };
            let phases: Vec<&str> =
                bands.iter().filter(|b| b.from <= at && at < b.to).map(|b| b.name.as_str()).collect();
            let phases = if phases.is_empty() { String::new() } else { format!(" ({})", phases.join(", ")) };
            (at, format!("At {}{phases}: {said}", quantity::seconds(at)))
        };
        self.points.iter().map(read).collect()
    }

    /// Said below a plot whose points stand for several seconds.
    pub fn note(&self, rule: &str) -> String {
        match self.seconds_per_point {
            1 => String::new(),
            seconds => format!(" Each point is {rule} of {seconds} seconds."),
        }
    }

    fn series(&self, value: impl Fn(&[Second]) -> Option<f64>) -> Vec<Point> {
        let mut series: Vec<Point> = Vec::with_capacity(self.points.len());
        for seconds in &self.points {
            let x = mid(seconds);
            if let Some(last) = series.last().filter(|last| x - last.x > GAP * self.seconds_per_point as f64) {
                series.push(Point { x: (last.x + x) / 2.0, y: None });
            }
            series.push(Point { x, y: value(seconds).filter(|value| value.is_finite()) });
        }
        series
    }
}

/// The points that have a value.
pub fn values(points: &[Point]) -> impl Iterator<Item = f64> + '_ {
    points.iter().filter_map(|point| point.y)
}

/// The point with the highest value.
pub fn highest(points: &[Point]) -> Option<(f64, f64)> {
    points.iter().filter_map(|point| Some((point.x, point.y?))).max_by(|a, b| a.1.total_cmp(&b.1))
}

fn mid(seconds: &[Second]) -> f64 {
    let (first, last) = (seconds.first().map_or(0.0, |s| s.at_s), seconds.last().map_or(0.0, |s| s.at_s));
    (first + last) / 2.0
}
