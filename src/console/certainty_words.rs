//! Sentences about the certainty of one patron's evaluation, and what it follows from.

use super::words::Dated;
use crate::blocks::{Certainty, CertaintyState, Evidence};

/// Returns the sentences, the certainty first.
pub(super) fn sentences(certainty: Option<Certainty>, evidence: Option<&Evidence>) -> Vec<Dated> {
    let Some((certainty, evidence)) = certainty.zip(evidence) else {
        return vec![Dated::plain(state(CertaintyState::Unknown))];
    };
    let mut sentences = vec![Dated::plain(state(certainty.state))];
    sentences.extend(doubts(evidence));
    sentences.push(match certainty.as_of {
        Some(as_of) => Dated::at("All events are applied up to", as_of),
        None => Dated::plain("It is not known up to which instant all events are applied"),
    });
    if let Some(at) = evidence.snapshot_at {
        let text = "The open loans, fees and fines were last compared with the storage modules at";
        sentences.push(Dated::at(text, at));
    }
    sentences
}

fn state(state: CertaintyState) -> &'static str {
    match state {
        CertaintyState::Certain => "The answers are certain",
        CertaintyState::Late => "The answers may be late",
        CertaintyState::Incomplete => "The answers may be incomplete",
        CertaintyState::Doubtful => "The answers are doubtful",
        CertaintyState::Unknown => "It is not known whether the answers are certain",
    }
}

/// Returns what speaks against the answers. A later comparison with the storage modules replaces a parked record and
/// an incomplete history.
fn doubts(evidence: &Evidence) -> Vec<Dated> {
    let Evidence { now, snapshot_at, .. } = *evidence;
    let mut doubts = Vec::new();
    match evidence.dead_letter_at.filter(|at| Some(*at) > snapshot_at) {
        // Without a read, a parked record may concern any patron from now on.
        Some(at) if at == now => doubts.push(Dated::plain("A parked record may name the patron")),
        Some(at) => {
            let text =
                "A record that names the patron, or an open item of the patron, was parked at";
            doubts.push(Dated::at(text, at));
        }
        None => {}
    }
    if !evidence.is_group_current {
        doubts.push(Dated::plain("The patron group may be out of date"));
    }
    if evidence.has_stopped_partition {
        let text = "A partition with events of the library is stopped, so newer events wait";
        doubts.push(Dated::plain(text));
    }
    if let Some(before) = evidence.incomplete_before.filter(|before| Some(*before) > snapshot_at) {
        doubts.push(Dated::at("Events may be missing from before", before));
    }
    if !evidence.has_log {
        let text = "Events arrive over HTTP only, so no lag shows whether some are missing";
        doubts.push(Dated::plain(text));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;

    fn texts(evidence: &Evidence) -> Vec<String> {
        let certainty = Certainty::new(evidence, TimeDelta::seconds(60));
        let sentences = sentences(Some(certainty), Some(evidence));
        sentences.into_iter().map(|sentence| sentence.text).collect()
    }

    #[test]
    fn certain_answer_has_no_doubt() {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let texts = texts(&Evidence { as_of: Some(now), ..Evidence::at(now) });
        assert_eq!(texts, ["The answers are certain", "All events are applied up to"]);
    }

    #[test]
    fn each_doubt_has_a_sentence_until_a_later_comparison() {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let before = Some(now - TimeDelta::seconds(10));
        let doubtful = Evidence {
            dead_letter_at: before,
            incomplete_before: before,
            has_stopped_partition: true,
            is_group_current: false,
            has_log: false,
            ..Evidence::at(now)
        };
        assert_eq!(texts(&doubtful).len(), 7, "{:?}", texts(&doubtful));
        let compared = Evidence { snapshot_at: Some(now), ..doubtful };
        let texts = texts(&compared);
        assert!(!texts.iter().any(|text| text.contains("parked") || text.contains("before")));
        assert!(texts.iter().any(|text| text.contains("compared with the storage modules")));
    }

    #[test]
    fn unknown_certainty_is_one_sentence() {
        assert_eq!(sentences(None, None).len(), 1);
    }
}
