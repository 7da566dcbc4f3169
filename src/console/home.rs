//! Home: what needs attention now, and the numbers of ingest.

use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use chrono::{DateTime, Utc};

use super::{
    response::{self, PageError},
    shell::Shell,
    sparkline::{Sparkline, number},
    texts::Texts,
    visit::Visit,
    words,
};
use crate::{
    blocks::{CertaintyState, Measure},
    clock,
    cql::Condition,
    event::parse_uuid,
    http::ApiError,
    services::evaluation::{
        certainty::CertaintyReport,
        latency::{self, MinuteLatency},
    },
    store::{
        self,
        ingest::{
            dead_letters,
            incidents::{self, StoredIncident},
        },
        messages::pending_patrons,
        settings::records,
        state::patrons::{self, WaitingCounts},
        tenants::Completeness,
    },
};

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    shell: Shell,
    sentence: String,
    tasks: Vec<Task>,
    numbers: Vec<Number>,
    blocked: Blocked,
}

/// The patrons whom limits block now.
struct Blocked {
    /// A sentence instead of numbers.
    sentence: Option<&'static str>,
    /// The names of conditions with the numbers of patrons, the greatest first. A patron may be in several.
    by_condition: Vec<(&'static str, i64)>,
}

/// Something that needs attention, with its next step.
struct Task {
    text: String,
    step: &'static str,
    path: &'static str,
}

struct Number {
    name: &'static str,
    value: String,
    sparkline: Option<Sparkline>,
}

impl Number {
    fn new(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, value: value.into(), sparkline: None }
    }

    /// Adds the drawing of earlier values.
    fn with(self, sparkline: Option<Sparkline>) -> Self {
        Self { sparkline, ..self }
    }
}

/// Redirects the root of the console, an address without a slash at its end.
pub(super) async fn redirect(request: HttpRequest) -> HttpResponse {
    let root = request.path().rsplit('/').next().unwrap_or_default();
    response::see_other(format!("{root}/home"))
}

/// What waits for other events or for an operator.
struct Backlog {
    incidents: Vec<StoredIncident>,
    /// At most [`COUNTED_MAX`].
    dead_letters: i64,
    /// Records that were parked in each of the last 24 hours.
    parked_by_hour: [i64; 24],
    waiting: WaitingCounts,
    /// Conditions with the number of patrons whom they block; `None` if block events are off.
    blocked: Option<Vec<(String, i64)>>,
}

/// What this instance measured in the last hour.
struct Measured {
    lags: Vec<i64>,
    latencies: [MinuteLatency; latency::MINUTES],
}

/// Largest exact number of parked records on a page.
pub(super) const COUNTED_MAX: i64 = 10_001;

/// Largest number of incidents on a page, open ones first.
pub(super) const INCIDENTS_MAX: i64 = 100;

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let report = visit.certainty().await?;
        let (schema, id) = (&visit.tenant.schema, &visit.tenant.id);
        let backlog = store::read(&visit.db, async |db| {
            let target = &dead_letters::SEARCH_TARGET;
            Ok(Backlog {
                incidents: incidents::list(&mut *db, Some(id), true, INCIDENTS_MAX).await?,
                dead_letters: records::count_up_to(
                    &mut *db,
                    schema,
                    target,
                    &Condition::All,
                    COUNTED_MAX,
                )
                .await?,
                parked_by_hour: dead_letters::count_by_hour(&mut *db, schema).await?,
                blocked: match visit.state.block_events.is_enabled() {
                    true => Some(pending_patrons::count_blocked(&mut *db, schema).await?),
                    false => None,
                },
                waiting: patrons::count_waiting(db, schema).await?,
            })
        })
        .await?;
        let (evaluator, now) = (&visit.state.evaluator, visit.state.clock.now());
        let measured = Measured {
            lags: evaluator.freshness.lags.of(id),
            latencies: evaluator.latencies.last_hour(now),
        };
        let shell = visit.shell_with("home", Some(&report)).await;
        Ok::<_, ApiError>(HomePage::new(shell, &report, &backlog, &measured, now))
    };
    visit.render(load).await
}

/// Returns the number of parked records in words.
pub(super) fn parked_records(texts: &'static Texts, count: i64) -> String {
    match count {
        COUNTED_MAX.. => texts.fill("home.over", &[("count", &(COUNTED_MAX - 1))]),
        _ => count.to_string(),
    }
}

/// Returns the 99th percentile of a minute in words.
fn percentile(texts: &'static Texts, minute: MinuteLatency) -> String {
    match minute.evaluations {
        0 => texts.text("home.noAnswers").to_owned(),
        _ => texts.fill("home.millis", &[("count", &number(minute.p99_millis))]),
    }
}

impl Blocked {
    fn new(texts: &'static Texts, blocked: Option<&[(String, i64)]>) -> Self {
        let sentence = match blocked {
            None => Some(texts.text("home.blockedUnknown")),
            Some([]) => Some(texts.text("home.blockedNone")),
            Some(_) => None,
        };
        let named = blocked.unwrap_or_default().iter().map(|(condition, patrons)| {
            let measure = parse_uuid(condition).and_then(Measure::from_condition_id);
            let name = measure.map(|measure| words::measure(texts, measure));
            (name.unwrap_or_else(|| texts.text("condition.other")), *patrons)
        });
        let mut by_condition: Vec<_> = named.collect();
        by_condition.sort_by_key(|(_, patrons)| -patrons);
        Self { sentence, by_condition }
    }
}

impl HomePage {
    fn new(
        shell: Shell,
        report: &CertaintyReport,
        backlog: &Backlog,
        measured: &Measured,
        now: DateTime<Utc>,
    ) -> Self {
        let texts = shell.texts;
        let tasks = tasks(texts, report, backlog);
        let sentence = match tasks.len() {
            0 if shell.strip.is_good => texts.text("home.allIsWell").to_owned(),
            0 => shell.strip.text.to_owned(),
            count => texts.fill("home.needAttention", &[("count", &count)]),
        };
        let numbers = numbers(texts, report, backlog, measured, now);
        let blocked = Blocked::new(texts, backlog.blocked.as_deref());
        Self { shell, sentence, tasks, numbers, blocked }
    }
}

/// Returns the numbers, with the drawings of earlier values.
fn numbers(
    texts: &'static Texts,
    report: &CertaintyReport,
    backlog: &Backlog,
    measured: &Measured,
    now: DateTime<Utc>,
) -> Vec<Number> {
    let unknown = || texts.text("home.unknown").to_owned();
    let as_of = report.certainty.as_of;
    let age = as_of.map_or_else(unknown, |at| words::age(texts, at, now));
    let lag = match as_of {
        Some(_) if report.freshness.has_log => report.freshness.lag.to_string(),
        _ => unknown(),
    };
    let float = |values: &[i64]| -> Vec<f64> { values.iter().map(|n| *n as f64).collect() };
    let per_minute = measured.latencies.map(|minute| f64::from(minute.evaluations));
    let p99 = measured.latencies.map(|minute| minute.p99_millis);
    // The last minute is not over.
    let last = measured.latencies[latency::MINUTES - 2];
    let number = |name, value: String| Number::new(texts.text(name), value);
    let drawn = |values: &[f64], period| Sparkline::new(texts, values, texts.text(period));
    vec![
        number("home.age", age),
        number("home.toApply", lag).with(drawn(&float(&measured.lags), "home.lastHour")),
        number("home.parked", parked_records(texts, backlog.dead_letters))
            .with(drawn(&float(&backlog.parked_by_hour), "home.parkedByHour")),
        number("home.answers", last.evaluations.to_string())
            .with(drawn(&per_minute, "home.answersByMinute")),
        number("home.percentile", percentile(texts, last)).with(drawn(&p99, "home.millisByMinute")),
        number("home.waitingLoans", backlog.waiting.loans.to_string()),
        number("home.waitingFees", backlog.waiting.fees_fines.to_string()),
    ]
}

/// Returns what needs attention, worst first.
fn tasks(texts: &'static Texts, report: &CertaintyReport, backlog: &Backlog) -> Vec<Task> {
    let task = |text: String, step, path| Task { text, step: texts.text(step), path };
    let open = backlog.incidents.iter().filter(|incident| incident.resolved_at.is_none());
    let incident = |incident: &StoredIncident| {
        let meaning = words::incident(texts, &incident.kind);
        task(format!("{meaning}: {}", incident.topic), "home.readIncident", "ingest")
    };
    let mut tasks: Vec<Task> = open.map(incident).collect();
    let plain = |key, step| task(texts.text(key).to_owned(), step, "ingest");
    match backlog.dead_letters {
        0 if report.has_dead_letters == Some(true) => {
            tasks.push(plain("home.parkedWithoutTenant", "home.lookAtIngest"));
        }
        0 => {}
        count => {
            let text = match count {
                COUNTED_MAX.. => texts.fill("home.overParked", &[("count", &(COUNTED_MAX - 1))]),
                _ => texts.fill("home.someParked", &[("count", &count)]),
            };
            tasks.push(task(text, "home.lookAtParked", "parked"));
        }
    }
    let late = report.certainty.state == CertaintyState::Late;
    if late && report.freshness.has_log {
        tasks.push(plain("home.late", "home.lookAtPartitions"));
    }
    match report.completeness {
        Completeness::Complete => {}
        Completeness::Filling => tasks.push(plain("home.filling", "home.lookAtIngest")),
        Completeness::IncompleteBefore(before) => {
            let before = clock::format_instant(before);
            let text = texts.fill("home.incomplete", &[("before", &before)]);
            tasks.push(task(text, "home.lookAtIngest", "ingest"));
        }
    }
    tasks
}
