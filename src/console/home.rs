//! Home: what needs attention now, and the numbers of ingest.

use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use chrono::{DateTime, Utc};

use super::{
    response::{self, PageError},
    shell::Shell,
    sparkline::{Sparkline, number},
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
    fn with(self, values: &[f64], period: &str) -> Self {
        Self { sparkline: Sparkline::new(values, period), ..self }
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
pub(super) fn parked_records(count: i64) -> String {
    if count < COUNTED_MAX { count.to_string() } else { format!("over {}", COUNTED_MAX - 1) }
}

/// Returns the 99th percentile of a minute in words.
fn percentile(minute: MinuteLatency) -> String {
    match minute.evaluations {
        0 => "no answers".to_owned(),
        _ => format!("{} ms", number(minute.p99_millis)),
    }
}

/// Returns the numbers of blocked patrons by condition, in words.
fn blocked_patrons(blocked: Option<&[(String, i64)]>) -> String {
    let Some(blocked) = blocked else { return "unknown: block events are off".to_owned() };
    if blocked.is_empty() {
        return "none".to_owned();
    }
    let named = blocked.iter().map(|(condition, patrons)| {
        let measure = parse_uuid(condition).and_then(Measure::from_condition_id);
        let name = measure.map_or("another condition", words::measure);
        format!("{name}: {patrons}")
    });
    named.collect::<Vec<_>>().join(", ")
}

impl HomePage {
    fn new(
        shell: Shell,
        report: &CertaintyReport,
        backlog: &Backlog,
        measured: &Measured,
        now: DateTime<Utc>,
    ) -> Self {
        let tasks = tasks(report, backlog);
        let sentence = match tasks.len() {
            0 if shell.strip.is_good => "All is well.".to_owned(),
            0 => shell.strip.text.to_owned(),
            1 => "1 thing needs attention.".to_owned(),
            many => format!("{many} things need attention."),
        };
        let age = |at| words::age(at, now);
        let as_of = report.certainty.as_of;
        let lag = match as_of {
            Some(_) if report.freshness.has_log => report.freshness.lag.to_string(),
            _ => "unknown".to_owned(),
        };
        let float = |values: &[i64]| -> Vec<f64> { values.iter().map(|n| *n as f64).collect() };
        let per_minute = measured.latencies.map(|minute| f64::from(minute.evaluations));
        let p99 = measured.latencies.map(|minute| minute.p99_millis);
        // The last minute is not over.
        let last = measured.latencies[latency::MINUTES - 2];
        let numbers = vec![
            Number::new("Age of the answers", as_of.map_or("unknown".to_owned(), age)),
            Number::new("Records to apply", lag).with(&float(&measured.lags), "Last hour"),
            Number::new("Parked records", parked_records(backlog.dead_letters))
                .with(&float(&backlog.parked_by_hour), "Parked in each of the last 24 hours"),
            Number::new("Blocked patrons", blocked_patrons(backlog.blocked.as_deref())),
            Number::new("Answers in the last minute, this instance", last.evaluations.to_string())
                .with(&per_minute, "Answers a minute in the last hour"),
            Number::new("99 of 100 answers within", percentile(last))
                .with(&p99, "Milliseconds in the last hour"),
            Number::new("Loans without check-out", backlog.waiting.loans.to_string()),
            Number::new("Fees without patron", backlog.waiting.fees_fines.to_string()),
        ];
        Self { shell, sentence, tasks, numbers }
    }
}

/// Returns what needs attention, worst first.
fn tasks(report: &CertaintyReport, backlog: &Backlog) -> Vec<Task> {
    let open = backlog.incidents.iter().filter(|incident| incident.resolved_at.is_none());
    let incident = |incident: &StoredIncident| Task {
        text: format!("{}: {}", words::incident(&incident.kind), incident.topic),
        step: "Read the incident",
        path: "ingest",
    };
    let mut tasks: Vec<Task> = open.map(incident).collect();
    if backlog.dead_letters > 0 {
        let are = if backlog.dead_letters == 1 { "record is" } else { "records are" };
        let count = parked_records(backlog.dead_letters);
        tasks.push(Task {
            text: format!("{count} {are} parked, because the service could not apply them."),
            step: "Look at the parked records",
            path: "parked",
        });
    } else if report.has_dead_letters == Some(true) {
        tasks.push(Task {
            text: "Records without a readable tenant are parked; they may be of this tenant. The command line lists \
                   them."
                .to_owned(),
            step: "Look at the ingest",
            path: "ingest",
        });
    }
    let late = report.certainty.state == CertaintyState::Late;
    if late && report.freshness.has_log {
        tasks.push(Task {
            text: "Newer events are not applied.".to_owned(),
            step: "Look at the partitions",
            path: "ingest",
        });
    }
    match report.completeness {
        Completeness::Complete => {}
        Completeness::Filling => tasks.push(Task {
            text: "The service still reads the events from before its enabling.".to_owned(),
            step: "Look at the ingest",
            path: "ingest",
        }),
        Completeness::IncompleteBefore(before) => {
            let before = clock::format_instant(before);
            tasks.push(Task {
                text: format!(
                    "Events from before {before} may be missing. A synchronization adds them."
                ),
                step: "Look at the ingest",
                path: "ingest",
            });
        }
    }
    tasks
}
