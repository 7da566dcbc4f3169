//! The desk page: whether a patron may borrow, renew and request, and what ends a block.

use actix_web::HttpResponse;
use askama::Template;
use uuid::Uuid;

use super::{
    response::PageError,
    shell::Shell,
    visit::Visit,
    words::{self, counted},
};
use crate::{
    blocks::{
        Action, Actions, CertaintyState, ExplainedAction, ExplainedFee, ExplainedLimit,
        ExplainedLoan, Explanation, MeasuredValue, Measures, UncertainReaction, WayOut,
        amount_text,
    },
    clock,
    http::{ApiError, extract::tenant::path_patron},
    services::{
        evaluation::{
            AnswerSource, EvaluationRequest,
            explanations::{ExplainedPatron, ExplanationMode},
        },
        operator_actions,
    },
    store::{
        self,
        ingest::dead_letters,
        state::{evidence, rows},
    },
};

/// Largest number of parked records on a page.
const PARKED_MAX: i64 = 20;

/// Largest number of loans, and of fees/fines, on a page.
const ROWS_MAX: usize = 200;

#[derive(Template)]
#[template(path = "desk.html")]
struct DeskPage {
    shell: Shell,
    user: Uuid,
    evaluated_at: String,
    actions: Vec<ActionRow>,
    notes: Vec<&'static str>,
    next: Option<NextRow>,
    group: String,
    limits: Vec<LimitRow>,
    loans: Vec<LoanRow>,
    loan_count: i64,
    has_titles: bool,
    /// Why the titles are absent; empty on the console port, which never has them.
    no_titles: &'static str,
    fees_fines: Vec<FeeRow>,
    fee_count: i64,
    /// Parked records that name the patron.
    parked: Vec<ParkedRow>,
    may_rebuild: bool,
}

struct ParkedRow {
    id: Uuid,
    rule: String,
}

/// One of the three answers.
struct ActionRow {
    name: &'static str,
    answer: &'static str,
    /// The class of the style, which no reader needs: the answer is in words.
    class: &'static str,
    sentences: Vec<String>,
}

struct NextRow {
    text: &'static str,
    at: String,
}

struct LimitRow {
    condition: String,
    measured: String,
    value: String,
    blocks: String,
    message: String,
}

struct LoanRow {
    id: Uuid,
    title: String,
    is_counted: bool,
    due_date: Option<String>,
    state: String,
    counts_for: String,
    return_to: String,
}

struct FeeRow {
    id: Uuid,
    balance: String,
    loan: Option<Uuid>,
    is_counted: bool,
    reason: &'static str,
    settle_to: String,
}

/// Returns the page of one patron.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let user = path_patron(visit.path_part("userId")).map_err(|error| visit.failed(error))?;
    let load = async {
        let (db, tenant) = (visit.db.clone(), visit.tenant.clone());
        let request = EvaluationRequest { db, tenant, user, caller: visit.caller.clone() };
        // The console port has no token of a reader. A repair would lock the writers at each refresh.
        let mode = ExplanationMode { asks_users: visit.has_gateway, repairs: false };
        let explained = visit.state.evaluator.explain(&request, mode).await;
        let patron = explained.map_err(ApiError::Store)?;
        let is_known = !patron.measures.is_empty() || is_known_patron(&visit, user).await?;
        let mut page = DeskPage::new(visit.shell("desk").await, &patron, is_known);
        page.add_titles(&visit).await;
        page.parked = parked_records(&visit, user).await?;
        page.may_rebuild = visit.may(operator_actions::Action::RequestRebuild);
        Ok(page)
    };
    visit.render(load).await
}

/// Returns whether the service has a row about a patron.
async fn is_known_patron(visit: &Visit, user: Uuid) -> Result<bool, store::Error> {
    let schema = &visit.tenant.schema;
    store::read(&visit.db, async |db| evidence::is_known_patron(db, schema, user).await).await
}

/// Returns the newest parked records that name a patron, or an open item of the patron.
async fn parked_records(visit: &Visit, user: Uuid) -> Result<Vec<ParkedRow>, store::Error> {
    let schema = &visit.tenant.schema;
    let read = async |db: &mut store::Connection| {
        let open = rows::open_subjects(&mut *db, schema, &[user]).await?;
        let ids: Vec<Uuid> = open.into_iter().map(|(id, _)| id).chain([user]).collect();
        dead_letters::list_by_subject(db, schema, &ids, PARKED_MAX).await
    };
    let found = store::read(&visit.db, read).await?;
    Ok(found.into_iter().map(|head| ParkedRow { id: head.id, rule: head.rule }).collect())
}

impl DeskPage {
    /// Adds the titles of the loans that the reader may see.
    async fn add_titles(&mut self, visit: &Visit) {
        if !visit.has_gateway || self.loans.is_empty() {
            return;
        }
        let ids: Vec<Uuid> = self.loans.iter().map(|loan| loan.id).collect();
        let lookups = &visit.state.reader_lookups;
        match lookups.fetch_items(&visit.caller, &ids).await {
            Ok(items) => {
                self.has_titles = true;
                for loan in &mut self.loans {
                    loan.title = items.get(&loan.id).map(words::item).unwrap_or_default();
                }
            }
            Err(error) if error.is_token_rejected() => {
                self.no_titles = "You have no permission to see the titles of loans.";
            }
            Err(_) => self.no_titles = "The titles of the loans could not be read.",
        }
    }

    fn new(shell: Shell, patron: &ExplainedPatron, is_known: bool) -> Self {
        let limits = patron.limits();
        let explanation = patron.explain(&limits);
        let way_outs: Vec<(Action, &WayOut)> = explanation
            .actions
            .iter()
            .filter_map(|action| Some((action.action, action.way_out.as_ref()?)))
            .collect();
        let has_group = patron.source != AnswerSource::GroupUnknown
            && patron.source != AnswerSource::GroupUnknownCircuitOpen;
        let loans = shown(&explanation.loans, |loan| {
            way_outs.iter().any(|(_, way_out)| suggests_loan(way_out, loan.id))
        });
        let fees_fines = shown(&explanation.fees_fines, |fee| {
            way_outs.iter().any(|(_, way_out)| suggests_fee(way_out, fee.id))
        });
        Self {
            shell,
            user: patron.user,
            evaluated_at: clock::format_instant(patron.now),
            actions: explanation
                .actions
                .iter()
                .map(|action| ActionRow::new(action, patron, has_group && is_known))
                .collect(),
            notes: notes(&explanation, patron, is_known, has_group),
            next: explanation.next.map(|next| NextRow {
                text: words::next_block(next.measure),
                at: clock::format_instant(next.at),
            }),
            group: words::group(patron.group.as_deref(), patron.source),
            limits: explanation.limits.iter().map(|limit| LimitRow::new(limit, patron)).collect(),
            loans: loans.into_iter().map(|loan| LoanRow::new(loan, &way_outs)).collect(),
            loan_count: patron.measures.open_loans,
            has_titles: false,
            no_titles: "",
            fees_fines: fees_fines.into_iter().map(|fee| FeeRow::new(fee, &way_outs)).collect(),
            fee_count: patron.measures.open_fees_fines,
            parked: Vec::new(),
            may_rebuild: false,
        }
    }
}

/// Returns the first items, and all suggested ones.
fn shown<T>(items: &[T], is_suggested: impl Fn(&T) -> bool) -> Vec<&T> {
    let is_shown = |(index, item): &(usize, &T)| *index < ROWS_MAX || is_suggested(item);
    items.iter().enumerate().filter(is_shown).map(|(_, item)| item).collect()
}

fn suggests_loan(way_out: &WayOut, id: Uuid) -> bool {
    way_out.returns.as_ref().is_some_and(|returns| returns.suggested.contains(&id))
}

fn suggests_fee(way_out: &WayOut, id: Uuid) -> bool {
    way_out.payment.as_ref().is_some_and(|payment| payment.fees_fines.contains(&id))
}

/// Returns the sentences below the answers: the certainty, and the side effects of the ways out.
fn notes(
    explanation: &Explanation<'_>,
    patron: &ExplainedPatron,
    is_known: bool,
    has_group: bool,
) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if !is_known {
        notes.push("No event names this id. Is it the id of a patron?");
    }
    if !has_group {
        notes.push("The patron group is unknown, so no limit could be compared. The desk blocks nothing then.");
    }
    let state = patron.certainty.map_or(CertaintyState::Unknown, |certainty| certainty.state);
    notes.extend(words::patron_certainty(state));
    if !patron.reactions.actions_with(UncertainReaction::Ask).is_empty() {
        notes.push("The desk may ask the storage modules before it answers, as the certainty policy requires.");
    }
    let ways_out = explanation.actions.iter().filter_map(|action| action.way_out.as_ref());
    for caveat in ways_out.flat_map(|way_out| &way_out.caveats) {
        let sentence = words::caveat(*caveat);
        if !notes.contains(&sentence) {
            notes.push(sentence);
        }
    }
    notes
}

impl ActionRow {
    /// Creates the answer. Without the patron group, or for an unknown patron, it is not sure.
    fn new(explained: &ExplainedAction, patron: &ExplainedPatron, is_sure: bool) -> Self {
        let ExplainedAction { action, because, way_out } = explained;
        let is_policy = |reaction| patron.reactions.actions_with(reaction).contains(*action);
        let is_allowed = is_policy(UncertainReaction::Allow);
        let is_blocked_by_limit = !because.is_empty() && !is_allowed;
        let mut sentences = Vec::new();
        if is_blocked_by_limit {
            sentences.push(match way_out {
                Some(way_out) => way_out_sentence(way_out, &patron.measures),
                None if patron.is_truncated() => {
                    "The patron has too many open items for a suggestion.".to_owned()
                }
                None => "The service found no way out.".to_owned(),
            });
            if way_out.as_ref().is_some_and(|way_out| !way_out.one_more_blocks.is_empty()) {
                sentences.push("After that, one more loan blocks again.".to_owned());
            }
        }
        let is_blocked_by_policy = is_policy(UncertainReaction::Block);
        if is_blocked_by_policy {
            let text = "The certainty policy blocks while the answer is not certain.";
            sentences.push(text.to_owned());
        }
        if is_allowed && !because.is_empty() {
            let text = "A limit is reached. The certainty policy allows it while the answer is not certain.";
            sentences.push(text.to_owned());
        }
        let is_blocked = is_blocked_by_policy || is_blocked_by_limit;
        let class = match is_blocked {
            true => "no",
            false if is_sure => "yes",
            false => "unsure",
        };
        let answer = if is_blocked { "no" } else { "yes" };
        Self { name: words::action(*action), answer, class, sentences }
    }
}

/// Returns what ends a block.
fn way_out_sentence(way_out: &WayOut, measures: &Measures) -> String {
    if way_out.only_when_nothing_is_open {
        let loans = counted(measures.open_loans, "loan", "loans");
        let fees = counted(measures.open_fees_fines, "fee or fine", "fees and fines");
        return format!("Possible only with nothing open at all. Open now: {loans}, {fees}.");
    }
    let mut steps = Vec::new();
    if let Some(returns) = &way_out.returns {
        let count = returns.suggested.len();
        let choice = count + returns.alternatives.len();
        steps.push(match count {
            _ if returns.is_any && count < choice => {
                format!("return any {count} of {choice} loans")
            }
            1 => "return the marked loan".to_owned(),
            _ => format!("return the {count} marked loans"),
        });
    }
    if let Some(payment) = &way_out.payment {
        steps.push(format!("settle {}", amount_text(payment.amount)));
    }
    let mut sentence = steps.join(" and ");
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    sentence + "."
}

impl LimitRow {
    fn new(limit: &ExplainedLimit<'_>, patron: &ExplainedPatron) -> Self {
        let finding = &limit.finding;
        let blocked =
            finding.blocked.difference(patron.reactions.actions_with(UncertainReaction::Allow));
        let condition = match finding.measure() {
            Some(measure) => words::measure(measure).to_owned(),
            None => format!("Unknown condition {}", finding.condition.id),
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
        let mut blocks = action_names(blocked);
        if blocks.is_empty() {
            blocks = "nothing".to_owned();
        }
        if !switched_off.is_empty() {
            blocks = format!("{blocks}; reached, but switched off: {}", action_names(switched_off));
        }
        Self {
            condition,
            measured,
            value: finding.limit.value.map(|value| value.to_string()).unwrap_or_default(),
            blocks,
            message,
        }
    }
}

fn action_names(actions: Actions) -> String {
    actions.iter().map(|action| words::action(action).to_lowercase()).collect::<Vec<_>>().join(", ")
}

/// Returns the names of the actions whose way out contains an item.
fn wanted_for(way_outs: &[(Action, &WayOut)], contains: impl Fn(&WayOut) -> bool) -> Vec<String> {
    let wanted = way_outs.iter().filter(|(_, way_out)| contains(way_out));
    wanted.map(|(action, _)| words::action(*action).to_lowercase()).collect()
}

impl LoanRow {
    fn new(loan: &ExplainedLoan, way_outs: &[(Action, &WayOut)]) -> Self {
        let id = loan.id;
        let has = |of: fn(&crate::blocks::Returns) -> &Vec<Uuid>| {
            wanted_for(way_outs, |way_out| {
                way_out.returns.as_ref().is_some_and(|returns| of(returns).contains(&id))
            })
        };
        let (required, suggested) =
            (has(|returns| &returns.required), has(|returns| &returns.suggested));
        let alternatives = has(|returns| &returns.alternatives);
        let return_to = if !required.is_empty() {
            format!("{} (required)", required.join(", "))
        } else if !suggested.is_empty() {
            suggested.join(", ")
        } else if !alternatives.is_empty() {
            format!("{} (can replace a marked loan)", alternatives.join(", "))
        } else {
            String::new()
        };
        let mut counts_for: Vec<_> =
            loan.counts_for.iter().map(|measure| words::measure(*measure).to_lowercase()).collect();
        if counts_for.is_empty() {
            counts_for.extend(
                loan.left_out.map(|reason| format!("nothing: {}", words::left_out(reason))),
            );
        }
        Self {
            id,
            title: String::new(),
            is_counted: !loan.counts_for.is_empty(),
            due_date: loan.loan.due_date.map(clock::format_instant),
            state: words::loan_state(&loan.loan, loan.overdue_days, loan.left_out),
            counts_for: counts_for.join(", "),
            return_to,
        }
    }
}

impl FeeRow {
    fn new(fee: &ExplainedFee, way_outs: &[(Action, &WayOut)]) -> Self {
        let settle_to = wanted_for(way_outs, |way_out| {
            way_out.payment.as_ref().is_some_and(|payment| payment.fees_fines.contains(&fee.id))
        });
        Self {
            id: fee.id,
            balance: amount_text(fee.fee.balance),
            loan: fee.fee.loan,
            is_counted: fee.left_out.is_none(),
            reason: fee.left_out.map_or("yes", words::left_out),
            settle_to: settle_to.join(", "),
        }
    }
}
