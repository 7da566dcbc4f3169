//! Sentences about the certainty of one patron's evaluation, and what it follows from.

use super::{texts::Texts, words::Dated};
use crate::blocks::{Certainty, CertaintyState, Evidence};

/// Returns the sentences, the certainty first.
pub(super) fn sentences(
    texts: &'static Texts,
    certainty: Option<Certainty>,
    evidence: Option<&Evidence>,
) -> Vec<Dated> {
    let Some((certainty, evidence)) = certainty.zip(evidence) else {
        return vec![state(texts, CertaintyState::Unknown)];
    };
    let mut sentences = vec![state(texts, certainty.state)];
    sentences.extend(doubts(texts, evidence));
    sentences.push(match certainty.as_of {
        Some(as_of) => Dated::at(texts.around("evidence.asOf", "at", &[]), as_of),
        None => Dated::plain(texts.text("evidence.noAsOf")),
    });
    if let Some(at) = evidence.snapshot_at {
        sentences.push(Dated::at(texts.around("evidence.snapshot", "at", &[]), at));
    }
    sentences
}

fn state(texts: &'static Texts, state: CertaintyState) -> Dated {
    Dated::plain(texts.text(match state {
        CertaintyState::Certain => "evidence.certain",
        CertaintyState::Late => "evidence.late",
        CertaintyState::Incomplete => "evidence.incomplete",
        CertaintyState::Doubtful => "evidence.doubtful",
        CertaintyState::Unknown => "evidence.unknown",
    }))
}

/// Returns the doubts about the answers. A later comparison with the storage modules replaces a parked record and an
/// incomplete history.
fn doubts(texts: &'static Texts, evidence: &Evidence) -> Vec<Dated> {
    let Evidence { now, snapshot_at, .. } = *evidence;
    let mut doubts = Vec::new();
    match evidence.dead_letter_at.filter(|at| Some(*at) > snapshot_at) {
        // Without a read, a parked record may concern any patron from now on.
        Some(at) if at == now => doubts.push(Dated::plain(texts.text("evidence.mayBeParked"))),
        Some(at) => doubts.push(Dated::at(texts.around("evidence.parked", "at", &[]), at)),
        None => {}
    }
    if !evidence.is_group_current {
        doubts.push(Dated::plain(texts.text("evidence.oldGroup")));
    }
    if evidence.has_stopped_partition {
        doubts.push(Dated::plain(texts.text("evidence.stoppedPartition")));
    }
    if let Some(before) = evidence.incomplete_before.filter(|before| Some(*before) > snapshot_at) {
        doubts.push(Dated::at(texts.around("evidence.missingBefore", "at", &[]), before));
    }
    if !evidence.has_log {
        doubts.push(Dated::plain(texts.text("evidence.httpOnly")));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;

    fn texts(evidence: &Evidence) -> Vec<String> {
        let certainty = Certainty::new(evidence, TimeDelta::seconds(60));
        let sentences = sentences(Texts::english(), Some(certainty), Some(evidence));
        sentences.into_iter().map(|sentence| sentence.before).collect()
    }

    #[test]
    fn certain_answer_has_no_doubt() {
        let now = DateTime::<Utc>::UNIX_EPOCH;
        let texts = texts(&Evidence { as_of: Some(now), ..Evidence::at(now) });
        assert_eq!(texts, ["The answers are certain.", "All events are applied up to "]);
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
        assert_eq!(sentences(Texts::english(), None, None).len(), 1);
    }
}
