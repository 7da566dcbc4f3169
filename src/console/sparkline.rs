//! A small drawing of numbers over time.

use super::texts::Texts;

/// Width and height of the drawing, in its own units.
const WIDTH: f64 = 160.0;
const HEIGHT: f64 = 32.0;

/// Distance of the line from the edges.
const MARGIN: f64 = 2.0;

/// The drawing of numbers at equal distances in time.
pub(super) struct Sparkline {
    /// What the drawing shows, in words.
    pub(super) title: String,
    /// The points of the line.
    pub(super) points: String,
}

impl Sparkline {
    /// Draws numbers, none of them negative; `None` for fewer than two. `period` is the time that they cover.
    pub(super) fn new(texts: &'static Texts, values: &[f64], period: &str) -> Option<Self> {
        let steps = values.len().checked_sub(1).filter(|steps| *steps > 0)?;
        let greatest = values.iter().copied().fold(0.0, f64::max);
        let scale = if greatest > 0.0 { (HEIGHT - 2.0 * MARGIN) / greatest } else { 0.0 };
        let point = |(index, value): (usize, &f64)| {
            let x = MARGIN + index as f64 / steps as f64 * (WIDTH - 2.0 * MARGIN);
            format!("{x:.1},{:.1}", HEIGHT - MARGIN - value * scale)
        };
        let points: Vec<String> = values.iter().enumerate().map(point).collect();
        let greatest = number(greatest);
        let title = texts.fill("sparkline.title", &[("period", &period), ("greatest", &greatest)]);
        Some(Self { title, points: points.join(" ") })
    }
}

/// Returns a number with at most two digits after the point.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_goes_from_the_oldest_to_the_newest_number() {
        let draw = |values: &[f64]| Sparkline::new(Texts::english(), values, "Last hour");
        let drawn = draw(&[0.0, 5.0, 10.0]).unwrap();
        assert_eq!(drawn.points, "2.0,30.0 80.0,16.0 158.0,2.0");
        assert_eq!(drawn.title, "Last hour: greatest 10");
        let flat = draw(&[0.0, 0.0]).unwrap();
        assert_eq!(flat.points, "2.0,30.0 158.0,30.0");
        assert!(draw(&[1.0]).is_none());
    }

    #[test]
    fn numbers_have_no_superfluous_digits() {
        assert_eq!([0.0, 12.0, 0.5, 1.239].map(number), ["0", "12", "0.5", "1.24"]);
    }
}
