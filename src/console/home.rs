//! Home: what needs attention now, and the numbers of ingest.

use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use chrono::{DateTime, Utc};

use super::{
    response::{self, PageError},
    shell::Shell,
    visit::Visit,
    words,
};
use crate::{
    blocks::CertaintyState,
    clock,
    http::ApiError,
    services::evaluation::certainty::CertaintyReport,
    store::{
        self,
        ingest::{
            dead_letters,
            incidents::{self, StoredIncident},
        },
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
}

/// Redirects the root of the console. The router removes a slash at the end of a path, so the root has two forms.
/// From `console/`, this location leads to `console/console/home`, which redirects as well.
pub(super) async fn redirect(request: HttpRequest) -> HttpResponse {
    let root = request.path().rsplit('/').next().unwrap_or_default();
    response::see_other(format!("{root}/home"))
}

/// Redirects `console/console/home`.
pub(super) async fn redirect_up() -> HttpResponse {
    response::see_other("../home".to_owned())
}

/// What waits for other events or for an operator.
struct Backlog {
    incidents: Vec<StoredIncident>,
    /// At most [`COUNTED_MAX`].
    dead_letters: i64,
    waiting: WaitingCounts,
}

/// Largest exact number of parked records on the page.
const COUNTED_MAX: i64 = 10_001;

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
                dead_letters: records::count_up_to(&mut *db, schema, target, COUNTED_MAX).await?,
                waiting: patrons::count_waiting(db, schema).await?,
            })
        })
        .await?;
        let shell = visit.shell_with("home", Some(&report));
        Ok::<_, ApiError>(HomePage::new(shell, &report, &backlog, visit.state.clock.now()))
    };
    visit.render(load).await
}

/// Returns the number of parked records in words.
fn parked_records(count: i64) -> String {
    if count < COUNTED_MAX { count.to_string() } else { format!("over {}", COUNTED_MAX - 1) }
}

impl HomePage {
    fn new(shell: Shell, report: &CertaintyReport, backlog: &Backlog, now: DateTime<Utc>) -> Self {
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
        let numbers = vec![
            Number { name: "Age of the answers", value: as_of.map_or("unknown".to_owned(), age) },
            Number { name: "Records to apply", value: lag },
            Number { name: "Parked records", value: parked_records(backlog.dead_letters) },
            Number { name: "Loans without check-out", value: backlog.waiting.loans.to_string() },
            Number { name: "Fees without patron", value: backlog.waiting.fees_fines.to_string() },
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
