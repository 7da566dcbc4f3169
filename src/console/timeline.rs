//! The timeline of events as a drawing: a tick where an event happened, and an arrow to where it arrived if it was late.

use chrono::{DateTime, TimeDelta, Utc};

use super::texts::Texts;

/// Width of the drawing, in its own units.
const WIDTH: f64 = 960.0;

/// Distance of the first and the last tick from the edges.
const MARGIN: f64 = 16.0;

/// Delay from which the drawing shows the arrival of an event, as a part of the whole time.
const VISIBLE_PART: f64 = 0.01;

/// The drawing of a timeline.
pub(super) struct Timeline {
    /// What the drawing shows, in words.
    pub(super) title: String,
    pub(super) ticks: Vec<Tick>,
}

/// An event on the drawing.
pub(super) struct Tick {
    /// Where the event happened.
    pub(super) x: String,
    /// Where the event arrived, if it was late.
    pub(super) arrival_x: Option<String>,
    pub(super) is_late: bool,
    pub(super) title: String,
}

/// An event for the drawing.
pub(super) struct Moment {
    pub(super) occurred_at: DateTime<Utc>,
    pub(super) received_at: DateTime<Utc>,
    pub(super) is_late: bool,
    pub(super) text: String,
}

impl Timeline {
    /// Draws events; `None` if there are none.
    pub(super) fn new(texts: &'static Texts, moments: &[Moment]) -> Option<Self> {
        let all = moments.iter().flat_map(|moment| [moment.occurred_at, moment.received_at]);
        let (first, last) = (all.clone().min()?, all.max()?);
        let span = (last - first).max(TimeDelta::seconds(1)).as_seconds_f64();
        let part_of = |at: DateTime<Utc>| (at - first).as_seconds_f64() / span;
        let x_of = |at| format!("{:.1}", MARGIN + part_of(at) * (WIDTH - 2.0 * MARGIN));
        let ticks = moments.iter().map(|moment| {
            let delay = part_of(moment.received_at) - part_of(moment.occurred_at);
            let is_visible = moment.is_late && delay >= VISIBLE_PART;
            Tick {
                x: x_of(moment.occurred_at),
                arrival_x: is_visible.then(|| x_of(moment.received_at)),
                is_late: moment.is_late,
                title: moment.text.clone(),
            }
        });
        let late = moments.iter().filter(|moment| moment.is_late).count();
        let title = texts.fill("timeline.title", &[("count", &moments.len()), ("late", &late)]);
        Some(Self { title, ticks: ticks.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(occurred: i64, received: i64, is_late: bool) -> Moment {
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let (occurred_at, received_at) = (at(occurred), at(received));
        Moment { occurred_at, received_at, is_late, text: String::new() }
    }

    #[test]
    fn ticks_lie_in_proportion_to_time() {
        let moments = [moment(0, 0, false), moment(50, 100, true), moment(99, 100, true)];
        let drawn = Timeline::new(Texts::english(), &moments).unwrap();
        let xs: Vec<&str> = drawn.ticks.iter().map(|tick| &*tick.x).collect();
        assert_eq!(xs, ["16.0", "480.0", "934.7"]);
        let arrivals: Vec<_> = drawn.ticks.iter().map(|tick| tick.arrival_x.as_deref()).collect();
        assert_eq!(arrivals, [None, Some("944.0"), Some("944.0")]);
        assert_eq!(drawn.title, "3 events, 2 of them late");
    }

    #[test]
    fn one_instant_has_a_drawing_and_no_event_has_none() {
        assert!(Timeline::new(Texts::english(), &[]).is_none());
        let moments = [moment(5, 5, false), moment(5, 5, false)];
        let drawn = Timeline::new(Texts::english(), &moments).unwrap();
        assert_eq!(drawn.ticks[1].x, "16.0");
    }
}
