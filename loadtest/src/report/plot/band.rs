//! Phases of the run: shaded, with their names above the data. Phases at the same time stand in lanes.

use super::{Frame, Plot, Px, TOP, fitted};
use crate::report::markup::Markup;

const LANE: f64 = 19.0;
/// Most lanes; phases beyond them are shaded without a name.
const LANES_MAX: usize = 3;

#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    pub name: String,
    /// Written where the name has no room.
    pub short: String,
    pub from: f64,
    pub to: f64,
}

pub fn height(bands: &[Band]) -> f64 {
    let lanes = lanes(bands).into_iter().max().map_or(0, |last| last + 1);
    lanes.min(LANES_MAX) as f64 * LANE
}

pub fn draw(svg: &mut Markup, bands: &[Band], frame: &Frame, plot: &Plot) {
    for (number, (band, lane)) in bands.iter().zip(lanes(bands)).enumerate() {
        let (from, to) = (frame.x(plot.x.scale, band.from), frame.x(plot.x.scale, band.to));
        let top = TOP + lane.min(LANES_MAX) as f64 * LANE;
        let class = if number % 2 == 0 { "band even" } else { "band odd" };
        let (x, width, height) = (Px(from), Px(to - from), Px(frame.bottom - top));
        let shape = [("class", &class as _), ("x", &x as _), ("y", &Px(top) as _)];
        svg.element("g", &[], |group| {
            group.leaf("title", &[], &band.name);
            group.empty("rect", &[shape[0], shape[1], shape[2], ("width", &width), ("height", &height)]);
            let (y, bottom) = (Px(top), Px(frame.bottom));
            group.empty("line", &[("class", &"edge"), ("x1", &x), ("x2", &x), ("y1", &y), ("y2", &bottom)]);
            let name = (lane < LANES_MAX).then(|| band.written(to - from - 9.0)).flatten();
            if let Some(name) = name {
                let (x, y) = (Px(from + 5.0), Px(top + 13.5));
                group.leaf("text", &[("class", &"phase"), ("x", &x), ("y", &y)], name);
            }
        });
    }
}

impl Band {
    fn written(&self, width: f64) -> Option<String> {
        fitted(&self.name, width).filter(|text| *text == self.name).or_else(|| fitted(&self.short, width))
    }
}

/// The first lane that is free when the phase begins.
fn lanes(bands: &[Band]) -> Vec<usize> {
    let mut free_from: Vec<f64> = Vec::new();
    let place = |band: &Band| {
        let lane = free_from.iter().position(|free| *free <= band.from + 1e-9).unwrap_or(free_from.len());
        match free_from.get_mut(lane) {
            Some(free) => *free = band.to,
            None => free_from.push(band.to),
        }
        lane
    };
    bands.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_share_a_lane_when_they_follow_each_other() {
        let band = |from, to| Band { name: String::new(), short: String::new(), from, to };
        assert_eq!(lanes(&[band(0.0, 5.0), band(5.0, 9.0), band(3.0, 6.0), band(9.0, 10.0)]), [0, 0, 1, 0]);
    }
}
