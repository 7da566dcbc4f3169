//! The pages of a loan and of a fee/fine: the state in words, the registers with the events that set them, and the
//! timeline of events.

use actix_web::HttpResponse;
use askama::Template;
use chrono::TimeDelta;
use uuid::Uuid;

use super::{
    fact_words::{self, Origins, RegisterRow},
    response::PageError,
    shell::Shell,
    texts::Texts,
    timeline::{Moment, Timeline},
    visit::Visit,
    words::{self, Dated},
};
use crate::{
    blocks::amount_text,
    clock,
    event::Stamp,
    http::{ApiError, extract::tenant::path_id},
    patron::{Fee, Loan},
    store::{
        self,
        ingest::{
            dead_letters::{self, DeadLetterHead},
            event_history::{self, AppliedEvent},
        },
        state::rows,
    },
};

/// Largest number of events on a page.
const EVENTS_MAX: i64 = 200;

/// Largest number of parked records in a short list.
pub(super) const PARKED_MAX: i64 = 20;

/// Delay from which an event counts as late, unless a newer event arrived before it.
const LATE_AFTER: TimeDelta = TimeDelta::minutes(1);

/// Shortest delay that the page shows. Two events of one act may arrive in any order.
const SHOWN_DELAY_MIN: TimeDelta = TimeDelta::seconds(1);

#[derive(Template)]
#[template(path = "item.html")]
struct ItemPage {
    shell: Shell,
    /// The heading before and after the id.
    heading: [String; 2],
    id: Uuid,
    state: Dated,
    patron: Option<Uuid>,
    registers: Vec<RegisterRow>,
    timeline: Option<Timeline>,
    events: Vec<EventRow>,
    parked: Vec<ParkedRow>,
}

struct EventRow {
    occurred_at: String,
    received_at: String,
    sentence: Dated,
    kind: String,
    place: String,
    /// The delay in words, if the event was late.
    delay: Option<String>,
}

/// A parked record in a short list.
pub(super) struct ParkedRow {
    pub(super) id: Uuid,
    pub(super) received_at: String,
    pub(super) rule: String,
}

impl From<DeadLetterHead> for ParkedRow {
    fn from(head: DeadLetterHead) -> Self {
        let received_at = clock::format_instant(head.received_at);
        Self { id: head.id, received_at, rule: head.rule }
    }
}

/// A loan or a fee/fine, as a page shows it.
struct ItemState {
    text: Dated,
    patron: Option<Uuid>,
    registers: Vec<RegisterRow>,
}

/// What the tables have about a loan or a fee/fine.
struct Found<T> {
    row: Option<T>,
    events: Vec<AppliedEvent>,
    parked: Vec<DeadLetterHead>,
}

/// Returns the page of a loan.
pub(super) async fn loan(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let (id, texts) = (item_id(&visit)?, visit.texts);
        let heading = texts.around("item.loan", "id", &[]);
        let Found { row, events, parked } = find::<Loan>(&visit, id).await?;
        let origins = origins(&events);
        let state = row.map(|row| {
            let open = row.state.as_open(row.horizon);
            let opening = row.state.opening().map(|(_, user)| user);
            let text = match (&open, row.state.closed, opening) {
                (Some(open), _, _) => {
                    let now = visit.state.clock.now();
                    let days = open
                        .due_date
                        .map_or(0, |due| crate::patron::overdue_days(due, open.grace, now));
                    let is_overdue = open.overdue_from().is_some_and(|from| from <= now);
                    let days = if is_overdue { days } else { 0 };
                    let loan_state = words::loan_state(texts, open, days, None);
                    Dated::plain(texts.fill("item.openLoan", &[("state", &loan_state)]))
                }
                (None, Some(closed), _) => {
                    Dated::at(texts.around("item.closed", "at", &[]), closed.at())
                }
                (None, None, None) => Dated::plain(texts.text("item.waits")),
                (None, None, Some(_)) => Dated::plain(texts.text("item.absent")),
            };
            let registers = fact_words::loan_registers(texts, &row.state, &origins, None);
            ItemState { text, patron: opening.or(row.state.fallback_user), registers }
        });
        Ok::<_, ApiError>(ItemPage::new(&visit, (heading, id), state, events, parked).await)
    };
    visit.render(load).await
}

/// Returns the page of a fee/fine.
pub(super) async fn fee_fine(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let (id, texts) = (item_id(&visit)?, visit.texts);
        let heading = texts.around("item.fee", "id", &[]);
        let Found { row, events, parked } = find::<Fee>(&visit, id).await?;
        let origins = origins(&events);
        let state = row.map(|row| {
            let text = match (row.state.as_open(row.horizon), &row.state.balance, &row.state.user) {
                (Some(open), _, _) => {
                    let balance = amount_text(open.balance);
                    Dated::plain(texts.fill("item.openFee", &[("balance", &balance)]))
                }
                (None, Some((stamp, balance)), _) if balance.amount.is_zero() => {
                    Dated::at(texts.around("item.settled", "at", &[]), stamp.at())
                }
                (None, _, None) => Dated::plain(texts.text("item.withoutPatron")),
                _ => Dated::plain(texts.text("item.absent")),
            };
            let registers = fact_words::fee_registers(texts, &row.state, &origins, None);
            ItemState { text, patron: row.state.user.map(|(_, user)| user), registers }
        });
        Ok::<_, ApiError>(ItemPage::new(&visit, (heading, id), state, events, parked).await)
    };
    visit.render(load).await
}

fn item_id(visit: &Visit) -> Result<Uuid, ApiError> {
    let not_a_uuid = || ApiError::bad_request(visit.texts.text("error.itemId"));
    path_id(visit.path_part("id"), not_a_uuid)
}

async fn find<T: rows::SubjectTable>(
    visit: &Visit,
    id: Uuid,
) -> Result<Found<rows::SubjectRow<T>>, ApiError> {
    let schema = &visit.tenant.schema;
    let read = async |db: &mut store::Connection| {
        let row = rows::load::<T>(&mut *db, schema, &[id]).await?.remove(&id);
        let events = event_history::list(&mut *db, schema, id, EVENTS_MAX).await?;
        let parked = dead_letters::list_by_subject(db, schema, &[id], PARKED_MAX).await?;
        Ok(Found { row, events, parked })
    };
    Ok(store::read(&visit.db, read).await?)
}

/// Returns what set the registers. An event without a stored payload set registers as well.
fn origins(events: &[AppliedEvent]) -> Origins {
    let rows = events.iter().map(|event| &event.row);
    Origins::new(rows.filter_map(|row| Some((Stamp::from_bytes(&row.stamp)?, row.kind.clone()))))
}

impl ItemPage {
    async fn new(
        visit: &Visit,
        (heading, id): ([String; 2], Uuid),
        state: Option<ItemState>,
        events: Vec<AppliedEvent>,
        parked: Vec<DeadLetterHead>,
    ) -> Self {
        let unknown = || ItemState {
            text: Dated::plain(visit.texts.text("item.unknown")),
            patron: None,
            registers: Vec::new(),
        };
        let ItemState { text, patron, registers } = state.unwrap_or_else(unknown);
        let texts = visit.texts;
        let (moments, sentences) = moments(texts, &events);
        let row = |((event, moment), sentence)| EventRow::new(texts, event, moment, sentence);
        let rows = events.iter().zip(&moments).zip(sentences).map(row).collect();
        Self {
            shell: visit.shell("item").await,
            heading,
            id,
            state: text,
            patron,
            registers,
            // One event needs no drawing.
            timeline: Timeline::new(texts, &moments).filter(|_| moments.len() > 1),
            events: rows,
            parked: parked.into_iter().map(ParkedRow::from).collect(),
        }
    }
}

/// Returns the events for the drawing, and a sentence about each. An event is late if it took long, or if an event that counts as newer arrived
/// before it.
fn moments(texts: &'static Texts, events: &[AppliedEvent]) -> (Vec<Moment>, Vec<Dated>) {
    let mut first_arrival_after = None;
    let mut moments: Vec<(Moment, Dated)> = events
        .iter()
        .rev()
        .map(|event| {
            let (occurred_at, received_at) = (event.row.occurred_at, event.received_at);
            let is_overtaken = first_arrival_after.is_some_and(|newer| newer < received_at);
            first_arrival_after =
                Some(first_arrival_after.map_or(received_at, |newer| received_at.min(newer)));
            let sentence = match event.row.decode() {
                Ok(Some(event)) => fact_words::fact(texts, &event.fact),
                Ok(None) => Dated::plain(texts.text("item.noPayload")),
                Err(reject) => Dated::plain(texts.fill("item.unreadable", &[("rule", &reject)])),
            };
            let delay = received_at - occurred_at;
            let is_late = delay > LATE_AFTER || is_overtaken && delay >= SHOWN_DELAY_MIN;
            let text = sentence.to_string();
            (Moment { occurred_at, received_at, is_late, text }, sentence)
        })
        .collect();
    moments.reverse();
    moments.into_iter().unzip()
}

impl EventRow {
    fn new(texts: &'static Texts, event: &AppliedEvent, moment: &Moment, sentence: Dated) -> Self {
        let place = match &event.topic {
            Some(topic) => {
                let (partition, offset) =
                    (event.partition.unwrap_or_default(), event.offset.unwrap_or_default());
                words::place(texts, topic, partition, offset)
            }
            None => texts.text("record.overHttp").to_owned(),
        };
        Self {
            occurred_at: clock::format_instant(moment.occurred_at),
            received_at: clock::format_instant(moment.received_at),
            sentence,
            kind: event.row.kind.clone(),
            place,
            delay: moment
                .is_late
                .then(|| words::age(texts, moment.occurred_at, moment.received_at)),
        }
    }
}
