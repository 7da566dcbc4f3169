//! The three answers about a patron in words, and the limits behind them: the common part of the desk page and of the
//! page of a patron.

use uuid::Uuid;

use super::{
    texts::Texts,
    visit::Visit,
    words::{self, Dated},
};
use crate::{
    blocks::{
        Action, CertaintyState, ExplainedAction, ExplainedLimit, Explanation, LeftOut,
        MeasuredValue, Measures, UncertainReaction, WayOut, amount_text,
    },
    clock,
    http::{ApiError, extract::tenant::path_patron},
    services::evaluation::{
        AnswerSource, EvaluationRequest,
        explanations::{ExplainedPatron, ExplanationMode},
    },
    store::{self, state::evidence},
};

/// A patron with the explanation of the blocks.
pub(super) struct LoadedPatron {
    pub(super) patron: ExplainedPatron,
    /// Whether the service has a row about the patron.
    pub(super) is_known: bool,
}

/// The three answers about a patron.
pub(super) struct Answers {
    pub(super) evaluated_at: String,
    pub(super) actions: Vec<ActionRow>,
    /// Whether the service has a row about the patron.
    pub(super) is_known: bool,
    /// Sentences below the answers.
    pub(super) notes: Vec<&'static str>,
    /// What time alone will do.
    pub(super) next: Option<Dated>,
    /// A sentence about the patron group.
    pub(super) group: String,
    /// All limits of the patron group.
    pub(super) limits: Vec<LimitRow>,
}

/// One of the three answers.
pub(super) struct ActionRow {
    /// The action and the answer.
    pub(super) heading: String,
    /// The class of the style, which no reader needs: the answer is in words.
    pub(super) class: &'static str,
    pub(super) sentences: Vec<String>,
}

/// One limit of the patron group.
pub(super) struct LimitRow {
    pub(super) condition: String,
    pub(super) measured: String,
    pub(super) value: String,
    pub(super) blocks: String,
    /// What the limit counts, and what it leaves out.
    pub(super) counts: String,
    pub(super) message: String,
    /// Whether the limit is reached for some action, even if its condition blocks none.
    pub(super) is_reached: bool,
}

/// Returns the patron whom the path names.
pub(super) fn patron_of(visit: &Visit) -> Result<Uuid, ApiError> {
    path_patron(visit.path_part("userId"))
}

/// Explains the blocks of a patron, on the connection of the console.
pub(super) async fn load(visit: &Visit, user: Uuid) -> Result<LoadedPatron, ApiError> {
    let (db, tenant) = (visit.db.clone(), visit.tenant.clone());
    let request = EvaluationRequest { db, tenant, user, caller: visit.caller.clone() };
    // The console port has no token of a reader. A repair would lock the writers at each refresh.
    let mode = ExplanationMode { asks_users: visit.has_gateway, repairs: false };
    let explained = visit.state.evaluator.explain(&request, mode).await;
    let patron = explained.map_err(ApiError::Store)?;
    let schema = &visit.tenant.schema;
    let is_known = !patron.measures.is_empty()
        || store::read(&visit.db, async |db| evidence::is_known_patron(db, schema, user).await)
            .await?;
    Ok(LoadedPatron { patron, is_known })
}

impl Answers {
    pub(super) fn new(
        texts: &'static Texts,
        loaded: &LoadedPatron,
        explanation: &Explanation<'_>,
    ) -> Self {
        let LoadedPatron { patron, is_known } = loaded;
        let has_group = patron.source != AnswerSource::GroupUnknown
            && patron.source != AnswerSource::GroupUnknownCircuitOpen;
        let is_sure = has_group && *is_known;
        let action = |action| ActionRow::new(texts, action, patron, is_sure);
        let limit = |limit| LimitRow::new(texts, limit, patron);
        Self {
            evaluated_at: clock::format_instant(patron.now),
            actions: explanation.actions.iter().map(action).collect(),
            is_known: *is_known,
            notes: notes(texts, explanation, patron, has_group),
            next: explanation.next.map(|next| words::next_block(texts, next.measure, next.at)),
            group: words::group(texts, patron.group.as_deref(), patron.source),
            limits: explanation.limits.iter().map(limit).collect(),
        }
    }
}

/// Returns the sentences below the answers: the certainty, and the side effects of the ways out.
fn notes(
    texts: &'static Texts,
    explanation: &Explanation<'_>,
    patron: &ExplainedPatron,
    has_group: bool,
) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if !has_group {
        notes.push(texts.text("answer.groupUnknown"));
        if patron.reactions.actions_with(UncertainReaction::Block).is_empty() {
            notes.push(texts.text("answer.nothingBlocked"));
        }
    }
    let state = patron.certainty.map_or(CertaintyState::Unknown, |certainty| certainty.state);
    notes.extend(words::patron_certainty(texts, state));
    if !patron.reactions.actions_with(UncertainReaction::Ask).is_empty() {
        notes.push(texts.text("answer.asksStorage"));
    }
    let ways_out = explanation.actions.iter().filter_map(|action| action.way_out.as_ref());
    for caveat in ways_out.flat_map(|way_out| &way_out.caveats) {
        let sentence = words::caveat(texts, *caveat);
        if !notes.contains(&sentence) {
            notes.push(sentence);
        }
    }
    notes
}

impl ActionRow {
    /// Creates the answer. Without the patron group, or for an unknown patron, it is not sure.
    fn new(
        texts: &'static Texts,
        explained: &ExplainedAction,
        patron: &ExplainedPatron,
        is_sure: bool,
    ) -> Self {
        let ExplainedAction { action, because, way_out } = explained;
        let is_policy = |reaction| patron.reactions.actions_with(reaction).contains(*action);
        let is_allowed = is_policy(UncertainReaction::Allow);
        let is_blocked_by_limit = !because.is_empty() && !is_allowed;
        let mut sentences = Vec::new();
        if is_blocked_by_limit {
            sentences.push(match way_out {
                Some(way_out) => way_out_sentence(texts, way_out, &patron.measures),
                None if patron.is_truncated() => texts.text("answer.tooManyItems").to_owned(),
                None => texts.text("answer.noWayOut").to_owned(),
            });
            if way_out.as_ref().is_some_and(|way_out| !way_out.one_more_blocks.is_empty()) {
                sentences.push(texts.text("answer.oneMoreBlocks").to_owned());
            }
        }
        let is_blocked_by_policy = is_policy(UncertainReaction::Block);
        if is_blocked_by_policy {
            sentences.push(texts.text("answer.policyBlocks").to_owned());
        }
        if is_allowed && !because.is_empty() {
            sentences.push(texts.text("answer.policyAllows").to_owned());
        }
        let is_blocked = is_blocked_by_policy || is_blocked_by_limit;
        let class = match is_blocked {
            true => "no",
            false if is_sure => "yes",
            false => "unsure",
        };
        let heading = texts.fill(
            if is_blocked { "answer.no" } else { "answer.yes" },
            &[("action", &words::action(texts, *action))],
        );
        Self { heading, class, sentences }
    }
}

/// Returns what ends a block.
fn way_out_sentence(texts: &'static Texts, way_out: &WayOut, measures: &Measures) -> String {
    if way_out.only_when_nothing_is_open {
        let (loans, fees) = (measures.open_loans, measures.open_fees_fines);
        return texts.fill("answer.onlyWithNothingOpen", &[("loans", &loans), ("fees", &fees)]);
    }
    let amount = way_out.payment.as_ref().map(|payment| amount_text(payment.amount));
    let Some(returns) = &way_out.returns else {
        let amount = amount.unwrap_or_default();
        return texts.fill("answer.settle", &[("amount", &amount)]);
    };
    let count = returns.suggested.len();
    let choice = count + returns.alternatives.len();
    match (returns.is_any && count < choice, amount) {
        (true, None) => texts.fill("answer.returnAny", &[("count", &count), ("choice", &choice)]),
        (true, Some(amount)) => texts.fill(
            "answer.returnAnyAndSettle",
            &[("count", &count), ("choice", &choice), ("amount", &amount)],
        ),
        (false, None) => texts.fill("answer.returnMarked", &[("count", &count)]),
        (false, Some(amount)) => {
            texts.fill("answer.returnMarkedAndSettle", &[("count", &count), ("amount", &amount)])
        }
    }
}

impl LimitRow {
    fn new(texts: &'static Texts, limit: &ExplainedLimit<'_>, patron: &ExplainedPatron) -> Self {
        let finding = &limit.finding;
        let blocked =
            finding.blocked.difference(patron.reactions.actions_with(UncertainReaction::Allow));
        let condition = match finding.measure() {
            Some(measure) => words::measure(texts, measure).to_owned(),
            None => texts.fill("condition.unknown", &[("id", &finding.condition.id)]),
        };
        let measured = match finding.measured {
            Some(MeasuredValue::Count(count)) => count.to_string(),
            Some(MeasuredValue::Money(sum)) => amount_text(sum),
            None => String::new(),
        };
        let switched_off = finding.reached.difference(finding.blocked);
        // The message belongs to a block; without one, its numbers would suggest an act.
        let message = match blocked.is_empty() {
            true => String::new(),
            false => finding.message(&patron.measures).into_owned(),
        };
        let mut blocks = words::actions(texts, blocked);
        if !switched_off.is_empty() {
            let actions = words::actions(texts, switched_off);
            blocks =
                texts.fill("answer.switchedOff", &[("blocks", &blocks), ("actions", &actions)]);
        }
        Self {
            condition,
            measured,
            value: finding.limit.value.map(|value| value.to_string()).unwrap_or_default(),
            blocks,
            counts: counts(texts, limit),
            message,
            is_reached: !finding.reached.is_empty(),
        }
    }
}

/// Returns the number of items that a limit counts, and why it leaves others out.
fn counts(texts: &'static Texts, limit: &ExplainedLimit<'_>) -> String {
    let left_out = |(reason, count): (&LeftOut, &usize)| {
        let reason = words::left_out(texts, *reason);
        texts.fill("leftOut.count", &[("count", count), ("reason", &reason)])
    };
    let mut parts = vec![texts.fill("leftOut.counted", &[("count", &limit.counted)])];
    parts.extend(limit.left_out.iter().map(left_out));
    parts.join("; ")
}

/// The loans and fees/fines that the ways out of the blocked actions contain.
pub(super) struct Marks<'a> {
    texts: &'static Texts,
    ways_out: Vec<(Action, &'a WayOut)>,
}

/// Why a patron should return a loan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// The actions need this loan, and no other loan replaces it.
    Required(String),
    /// The actions need this loan, or another one.
    Suggested(String),
    /// The loan can replace a suggested one for the actions.
    Alternative(String),
}

impl<'a> Marks<'a> {
    pub(super) fn new(texts: &'static Texts, explanation: &'a Explanation<'_>) -> Self {
        let way_out = |action: &'a ExplainedAction| Some((action.action, action.way_out.as_ref()?));
        Self { texts, ways_out: explanation.actions.iter().filter_map(way_out).collect() }
    }

    /// Returns the actions whose way out contains something, as a list; `None` if there are none.
    fn actions(&self, contains: impl Fn(&WayOut) -> bool) -> Option<String> {
        let wanted = self.ways_out.iter().filter(|(_, way_out)| contains(way_out));
        let names: Vec<_> =
            wanted.map(|(action, _)| words::listed_action(self.texts, *action)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Returns why the patron should return a loan; `None` if no way out contains it.
    pub(super) fn of_loan(&self, id: Uuid) -> Option<Mark> {
        let actions = |of: fn(&crate::blocks::Returns) -> &Vec<Uuid>| {
            self.actions(|way_out| {
                way_out.returns.as_ref().is_some_and(|returns| of(returns).contains(&id))
            })
        };
        (actions(|returns| &returns.required).map(Mark::Required))
            .or_else(|| actions(|returns| &returns.suggested).map(Mark::Suggested))
            .or_else(|| actions(|returns| &returns.alternatives).map(Mark::Alternative))
    }

    /// Returns the actions that need the settlement of a fee/fine; `None` if no way out contains it.
    pub(super) fn of_fee(&self, id: Uuid) -> Option<String> {
        self.actions(|way_out| {
            way_out.payment.as_ref().is_some_and(|payment| payment.fees_fines.contains(&id))
        })
    }
}
