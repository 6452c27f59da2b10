//! The server beside the bare loops, pair by pair.

use super::{Figure, extent};
use crate::report::plot::{Axis, Layer, Line, Plot, Point, Scale};
use crate::report::quantity::number;
use crate::result::{Floor, Pair, RunResult};

type Side = (&'static str, &'static str, fn(&Pair) -> Option<f64>);

const SIDES: [Side; 3] = [
    ("server", "s1", |pair| pair.server),
    ("epoll", "s3 ring", |pair| pair.epoll),
    ("io_uring", "s4 ring", |pair| pair.io_uring),
];

pub fn costs(result: &RunResult) -> Option<Figure> {
    let floor = result.floor.as_ref()?;
    let (_, most) = extent(SIDES.iter().flat_map(|(.., of)| floor.pairs.iter().filter_map(of)))?;
    let mut layers = Vec::new();
    for (number, pair) in floor.pairs.iter().enumerate() {
        if let Some((low, high)) = extent(SIDES.iter().filter_map(|(.., of)| of(pair))) {
            layers.push(Layer::Link { x: place(number), low, high });
        }
    }
    for (name, class, of) in SIDES {
        let points: Vec<Point> =
            floor.pairs.iter().enumerate().map(|(number, pair)| Point { x: place(number), y: of(pair) }).collect();
        layers.push(Layer::Dots(Line { name: name.to_owned(), class, points }));
    }
    let read = |(number, pair): (usize, &Pair)| {
        let said: Vec<String> =
            SIDES.iter().filter_map(|(name, _, of)| Some(format!("{name} {} µs", self::number(of(pair)?)))).collect();
        (place(number), format!("Pair {}: {}", number + 1, said.join(" · ")))
    };
    let reads = floor.pairs.iter().enumerate().map(read).collect();
    let summary = format!(
        "The same frame to the same sockets, in turns. The cheaper loop is {}: {} µs per send, the median.",
        floor.loop_name,
        number(floor.cpu_us_per_send)
    );
    let title = "CPU per send, server and bare loops";
    let plot = over_pairs(floor, title, "CPU µs per send", Scale::from_zero(most, 1.0), layers);
    Some(Figure::of(title, summary, plot, reads))
}

pub fn ratios(result: &RunResult) -> Option<Figure> {
    let floor = result.floor.as_ref()?;
    let median = floor.ratio?;
    let points: Vec<Point> =
        floor.pairs.iter().enumerate().map(|(n, pair)| Point { x: place(n), y: ratio(floor, pair) }).collect();
    let ends = [Some(1.0), Some(median), floor.ratio_low, floor.ratio_high];
    let shown = points.iter().filter_map(|point| point.y).chain(ends.into_iter().flatten());
    let (lowest, most) = extent(shown)?;
    let interval = floor.ratio_low.zip(floor.ratio_high);
    let mut layers: Vec<Layer> = Vec::new();
    layers.extend(interval.map(|(low, high)| Layer::Span { low, high }));
    layers.push(Layer::Level { name: "floor".to_owned(), class: "faint", y: 1.0 });
    layers.push(Layer::Level { name: "median".to_owned(), class: "s1", y: median });
    let reads = points.iter().enumerate().filter_map(|(number, point)| {
        Some((point.x, format!("Pair {}: {} × the floor", number + 1, self::number(point.y?))))
    });
    let reads = reads.collect();
    // Without a name of their own: the dots are what the title says.
    layers.push(Layer::Dots(Line { name: String::new(), class: "s1", points }));
    let within = interval.map_or(String::new(), |(low, high)| {
        format!(", with 95 % certainty from {} to {} (shaded)", number(low), number(high))
    });
    let summary = format!("Median: {} × the {} loop{within}.", number(median), floor.loop_name);
    let title = "Server ÷ floor";
    let plot = over_pairs(floor, title, "times the floor's CPU per send", Scale::around(lowest, most), layers);
    Some(Figure::of(title, summary, plot, reads))
}

fn ratio(floor: &Floor, pair: &Pair) -> Option<f64> {
    let bare = match floor.loop_name.as_str() {
        "epoll" => pair.epoll,
        _ => pair.io_uring,
    };
    bare.filter(|bare| *bare > 0.0).and_then(|bare| Some(pair.server? / bare))
}

fn place(number: usize) -> f64 {
    number as f64 + 1.0
}

fn over_pairs(floor: &Floor, title: &str, unit: &str, scale: Scale, layers: Vec<Layer>) -> Plot {
    let x = Scale::Linear { low: 0.5, high: floor.pairs.len() as f64 + 0.5, unit: 1.0 };
    Plot {
        label: format!("{title} ({unit}) by pair"),
        x: Axis { unit: "pair".to_owned(), scale: x, ticks: (floor.pairs.len() + 1).min(12) },
        y: Axis { unit: unit.to_owned(), scale, ticks: 6 },
        bands: Vec::new(),
        layers,
    }
}
