//! The page of a patron, for operators: the answers in short, all limits, and what set each value of the open loans and
//! fees/fines. A form compares the patron with the storage modules.

use actix_web::HttpResponse;
use askama::Template;
use uuid::Uuid;

use super::{
    answers::{self, Answers, LoadedPatron, Mark, Marks},
    certainty_words,
    fact_words::{self, Origins, RegisterRow},
    items::{PARKED_MAX, ParkedRow},
    rebuild_words,
    response::PageError,
    shell::Shell,
    texts::Texts,
    titles::Titles,
    visit::Visit,
    words::{self, Dated},
};
use crate::{
    blocks::{ExplainedFee, ExplainedLoan, Explanation, Measure, MeasuredValue, amount_text},
    clock,
    http::{
        ApiError,
        extract::paging::{number, parameter},
    },
    okapi::reader::TITLES_MAX,
    patron::{Fee, Loan},
    services::{evaluation::explanations::ExplainedPatron, operator_actions::Action},
    store::{
        self,
        ingest::{
            dead_letters::{self, DeadLetterHead},
            discarded_dead_letters::{self, DiscardedHead},
            event_history,
        },
        jobs::{self, Job, Status},
        rebuild::rebuilds::Summary,
        state::{
            evidence,
            rows::{self, SubjectRows},
        },
    },
};

/// Loans, and fees/fines, on a page. One call returns so many titles.
const PAGE_ROWS: usize = TITLES_MAX;

/// Largest number of events that a page reads to find what set the registers.
const EVENTS_MAX: i64 = 5_000;

#[derive(Template)]
#[template(path = "patron.html")]
struct PatronPage {
    shell: Shell,
    user: Uuid,
    answers: Answers,
    certainty: Vec<Dated>,
    /// When the source reported the patron group.
    group_known_at: Option<String>,
    counters: Vec<(&'static str, String)>,
    counters_differ: bool,
    loans: Vec<LoanRow>,
    loan_count: i64,
    titles: Titles,
    fees_fines: Vec<FeeRow>,
    fee_count: i64,
    /// Whether the patron has more items than an explanation reads.
    is_truncated: bool,
    previous: Option<usize>,
    next: Option<usize>,
    /// Loans that name the patron and wait for their check-out.
    waiting_loans: i64,
    parked: Vec<ParkedRow>,
    /// Whether a record in the tables of the module names the patron.
    has_parked_elsewhere: bool,
    discarded: Vec<DiscardedRow>,
    comparison: Option<Comparison>,
    may_compare: bool,
    /// Whether a comparison can use the token of the reader.
    has_token: bool,
}

struct LoanRow {
    id: Uuid,
    title: String,
    is_counted: bool,
    due_date: Option<String>,
    state: String,
    counts_for: String,
    return_to: String,
    registers: Vec<RegisterRow>,
}

struct FeeRow {
    id: Uuid,
    balance: String,
    loan: Option<Uuid>,
    is_counted: bool,
    reason: &'static str,
    settle_to: String,
    registers: Vec<RegisterRow>,
}

struct DiscardedRow {
    discarded_at: String,
    rule: String,
}

/// The newest rebuild of the patron.
struct Comparison {
    id: Uuid,
    requested_at: String,
    /// The result in one sentence, with the instant of the comparison.
    compared: [String; 2],
    sentences: Vec<String>,
    /// Whether its differences wait for a decision.
    is_repair: bool,
}

/// What the tables have about a patron besides the explanation.
struct Found {
    loans: SubjectRows<Loan>,
    fees_fines: SubjectRows<Fee>,
    origins: Origins,
    parked: Vec<DeadLetterHead>,
    has_parked_elsewhere: bool,
    waiting_loans: i64,
    discarded: Vec<DiscardedHead>,
    newest_rebuild: Option<Job>,
}

/// Returns the page of one patron. The parameter `offset` moves the loans and the fees/fines.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let parameters = || {
        let offset = number("offset", parameter(visit.request(), "offset")?, 0)?;
        Ok::<_, ApiError>((
            answers::patron_of(&visit)?,
            usize::try_from(offset).unwrap_or_default(),
        ))
    };
    let (user, offset) = parameters().map_err(|error| visit.failed(error))?;
    let load = async {
        let loaded = answers::load(&visit, user).await?;
        let limits = loaded.patron.limits();
        let explanation = loaded.patron.explain(&limits);
        let shown = Shown::new(&explanation, offset);
        let found = Found::load(&visit, user, &shown).await?;
        let loans: Vec<Uuid> = shown.loans.iter().map(|loan| loan.id).collect();
        let titles = Titles::fetch(&visit, &loans).await;
        let shell = visit.shell("patron").await;
        let page = PatronPage::new(shell, &loaded, (&explanation, &shown), found, titles)?;
        let may_compare = visit.may(Action::RequestRebuild);
        Ok(PatronPage { may_compare, has_token: visit.has_gateway, ..page })
    };
    visit.render(load).await
}

/// The loans and the fees/fines of one page.
struct Shown<'a> {
    loans: Vec<&'a ExplainedLoan>,
    fees_fines: Vec<&'a ExplainedFee>,
    previous: Option<usize>,
    next: Option<usize>,
}

impl<'a> Shown<'a> {
    fn new(explanation: &'a Explanation<'_>, offset: usize) -> Self {
        let end = offset.saturating_add(PAGE_ROWS);
        let all = explanation.loans.len().max(explanation.fees_fines.len());
        Self {
            loans: explanation.loans.iter().skip(offset).take(PAGE_ROWS).collect(),
            fees_fines: explanation.fees_fines.iter().skip(offset).take(PAGE_ROWS).collect(),
            previous: (offset > 0).then(|| offset.saturating_sub(PAGE_ROWS)),
            next: (end < all).then_some(end),
        }
    }
}

impl Found {
    async fn load(visit: &Visit, user: Uuid, shown: &Shown<'_>) -> Result<Self, store::Error> {
        let (schema, tenant) = (&visit.tenant.schema, &visit.tenant.id);
        let loans: Vec<Uuid> = shown.loans.iter().map(|loan| loan.id).collect();
        let fees_fines: Vec<Uuid> = shown.fees_fines.iter().map(|fee| fee.id).collect();
        let shown_ids = [&loans[..], &fees_fines[..]].concat();
        let read = async |db: &mut store::Connection| {
            let open = rows::open_subjects(&mut *db, schema, &[user]).await?;
            let ids: Vec<Uuid> = open.into_iter().map(|(id, _)| id).chain([user]).collect();
            let parked = dead_letters::list_by_subject(&mut *db, schema, &ids, PARKED_MAX).await?;
            let (all, waiting_loans) =
                evidence::details(&mut *db, schema, tenant, user, PARKED_MAX).await?;
            let kinds = event_history::kinds(&mut *db, schema, &shown_ids, EVENTS_MAX).await?;
            let is_here = |id: &Uuid| parked.iter().any(|head| head.id == *id);
            Ok(Self {
                loans: rows::load::<Loan>(&mut *db, schema, &loans).await?,
                fees_fines: rows::load::<Fee>(&mut *db, schema, &fees_fines).await?,
                origins: Origins::new(kinds),
                // If the list of the tenant is full, it may lack records of the tenant.
                has_parked_elsewhere: (parked.len() as i64) < PARKED_MAX
                    && !all.iter().all(is_here),
                waiting_loans,
                discarded: discarded_dead_letters::list_by_subject(
                    &mut *db, schema, &ids, PARKED_MAX,
                )
                .await?,
                newest_rebuild: jobs::find_newest_rebuild_of(db, tenant, user).await?,
                parked,
            })
        };
        store::read(&visit.db, read).await
    }
}

impl PatronPage {
    fn new(
        shell: Shell,
        loaded: &LoadedPatron,
        (explanation, shown): (&Explanation<'_>, &Shown<'_>),
        found: Found,
        titles: Titles,
    ) -> Result<Self, store::Error> {
        let texts = shell.texts;
        let (patron, marks) = (&loaded.patron, Marks::new(texts, explanation));
        let user = patron.user;
        let loan = |loan: &&ExplainedLoan| {
            let row = found.loans.get(&loan.id);
            let registers = row.map(|row| {
                fact_words::loan_registers(texts, &row.state, &found.origins, Some(user))
            });
            let title = titles.of(loan.id);
            let row = LoanRow::new(texts, loan, marks.of_loan(loan.id));
            LoanRow { title, registers: registers.unwrap_or_default(), ..row }
        };
        let fee = |fee: &&ExplainedFee| {
            let row = found.fees_fines.get(&fee.id);
            let registers = row.map(|row| {
                fact_words::fee_registers(texts, &row.state, &found.origins, Some(user))
            });
            let row = FeeRow::new(texts, fee, marks.of_fee(fee.id));
            FeeRow { registers: registers.unwrap_or_default(), ..row }
        };
        let comparison = |job| Comparison::new(texts, job);
        Ok(Self {
            shell,
            user,
            answers: Answers::new(texts, loaded, explanation),
            certainty: certainty_words::sentences(
                texts,
                patron.certainty,
                patron.evidence.as_ref(),
            ),
            group_known_at: patron.group_known_at.map(clock::format_instant),
            counters: counters(texts, patron),
            counters_differ: patron.counters_differ,
            loans: shown.loans.iter().map(loan).collect(),
            loan_count: patron.measures.open_loans,
            fees_fines: shown.fees_fines.iter().map(fee).collect(),
            fee_count: patron.measures.open_fees_fines,
            is_truncated: patron.is_truncated(),
            titles,
            previous: shown.previous,
            next: shown.next,
            waiting_loans: found.waiting_loans,
            parked: found.parked.into_iter().map(ParkedRow::from).collect(),
            has_parked_elsewhere: found.has_parked_elsewhere,
            discarded: found.discarded.into_iter().map(DiscardedRow::from).collect(),
            comparison: found.newest_rebuild.as_ref().map(comparison).transpose()?,
            may_compare: false,
            has_token: false,
        })
    }
}

/// Returns the numbers of a recount.
fn counters(texts: &'static Texts, patron: &ExplainedPatron) -> Vec<(&'static str, String)> {
    let measures = &patron.measures;
    let claimed = measures.open_loans - measures.charged_out;
    let counted = [
        ("patron.openLoans", measures.open_loans),
        ("patron.claimedReturned", claimed),
        ("patron.openFees", measures.open_fees_fines),
    ];
    let measured = Measure::ALL.map(|measure| {
        let value = match measures.value_of(measure) {
            MeasuredValue::Count(count) => count.to_string(),
            MeasuredValue::Money(sum) => amount_text(sum),
        };
        (words::measure(texts, measure), value)
    });
    let counted = counted.map(|(name, count)| (texts.text(name), count.to_string()));
    counted.into_iter().chain(measured).collect()
}

impl LoanRow {
    fn new(texts: &'static Texts, loan: &ExplainedLoan, mark: Option<Mark>) -> Self {
        let name = |measure: &Measure| words::listed_measure(texts, *measure);
        let counts_for: Vec<&str> = loan.counts_for.iter().map(name).collect();
        let counts_for = match loan.left_out {
            Some(reason) if counts_for.is_empty() => texts
                .fill("patron.countsForNothing", &[("reason", &words::left_out(texts, reason))]),
            _ => counts_for.join(", "),
        };
        Self {
            id: loan.id,
            title: String::new(),
            is_counted: !loan.counts_for.is_empty(),
            due_date: loan.loan.due_date.map(clock::format_instant),
            state: words::loan_state(texts, &loan.loan, loan.overdue_days, loan.left_out),
            counts_for,
            return_to: match mark {
                Some(Mark::Required(actions)) => {
                    texts.fill("patron.isRequired", &[("actions", &actions)])
                }
                Some(Mark::Suggested(actions)) => actions,
                Some(Mark::Alternative(actions)) => {
                    texts.fill("patron.canReplace", &[("actions", &actions)])
                }
                None => String::new(),
            },
            registers: Vec::new(),
        }
    }
}

impl FeeRow {
    fn new(texts: &'static Texts, fee: &ExplainedFee, settle_to: Option<String>) -> Self {
        let counted = || texts.text("patron.feeCounts");
        let left_out = |reason| words::left_out(texts, reason);
        Self {
            id: fee.id,
            balance: amount_text(fee.fee.balance),
            loan: fee.fee.loan,
            is_counted: fee.left_out.is_none(),
            reason: fee.left_out.map_or_else(counted, left_out),
            settle_to: settle_to.unwrap_or_default(),
            registers: Vec::new(),
        }
    }
}

impl From<DiscardedHead> for DiscardedRow {
    fn from(head: DiscardedHead) -> Self {
        Self { discarded_at: clock::format_instant(head.discarded_at), rule: head.rule }
    }
}

impl Comparison {
    fn new(texts: &'static Texts, job: &Job) -> Result<Self, store::Error> {
        let status = rebuild_words::status(texts, job.status);
        let summary = Summary::from_job(job)?;
        let has_differences = summary.as_ref().is_some_and(|summary| summary.patrons > 0);
        Ok(Self {
            id: job.id,
            requested_at: clock::format_instant(job.requested_at),
            compared: texts.around(
                match job.request["source"].as_str() {
                    Some("inbox") => "patron.comparedInbox",
                    Some("storage") => "patron.comparedStorage",
                    _ => "patron.comparedTopics",
                },
                "at",
                &[("status", &status)],
            ),
            sentences: rebuild_words::result(texts, job, summary.as_ref()),
            is_repair: job.status == Status::Compared && has_differences,
        })
    }
}
