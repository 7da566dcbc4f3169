//! Home: what needs attention now, and the numbers of ingest.

use actix_web::HttpResponse;
use askama::Template;
use chrono::{DateTime, Utc};

use super::{
    response::{self, PageError},
    shell::Shell,
    visit::Visit,
    words::{self, counted},
};
use crate::{
    blocks::CertaintyState,
    clock,
    http::ApiError,
    services::{
        evaluation::certainty::CertaintyReport,
        ingest::status::{Backlog, load_backlog},
    },
    store::tenants::Completeness,
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
pub(super) async fn redirect() -> HttpResponse {
    response::see_other("console/home".to_owned())
}

/// Redirects `console/console/home`.
pub(super) async fn redirect_up() -> HttpResponse {
    response::see_other("../home".to_owned())
}

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let report = visit.state.evaluator.tenant_certainty(&visit.db, &visit.tenant).await?;
        let backlog = load_backlog(&visit.db, &visit.tenant).await?;
        let now = visit.state.clock.now();
        Ok::<_, ApiError>(HomePage::new(visit.shell("home").await, &report, &backlog, now))
    };
    visit.render(load).await
}

impl HomePage {
    fn new(shell: Shell, report: &CertaintyReport, backlog: &Backlog, now: DateTime<Utc>) -> Self {
        let tasks = tasks(report, backlog);
        let sentence = match tasks.len() {
            0 => "All is well.".to_owned(),
            1 => "1 thing needs attention.".to_owned(),
            many => format!("{many} things need attention."),
        };
        let age = |at| words::age(at, now);
        let numbers = vec![
            Number {
                name: "Age of the answers",
                value: report.certainty.as_of.map_or("unknown".to_owned(), age),
            },
            Number { name: "Records to apply", value: report.freshness.lag.to_string() },
            Number { name: "Parked records", value: backlog.dead_letters.to_string() },
            Number { name: "Loans without check-out", value: backlog.waiting.loans.to_string() },
            Number { name: "Fees without patron", value: backlog.waiting.fees_fines.to_string() },
        ];
        Self { shell, sentence, tasks, numbers }
    }
}

/// Returns what needs attention, worst first.
fn tasks(report: &CertaintyReport, backlog: &Backlog) -> Vec<Task> {
    let open = backlog.incidents.iter().filter(|incident| incident.resolved_at.is_none());
    let incident = |incident: &crate::store::ingest::incidents::StoredIncident| Task {
        text: format!("{}: {}", words::incident(&incident.kind), incident.topic),
        step: "Read the incident",
        path: "ingest",
    };
    let mut tasks: Vec<Task> = open.map(incident).collect();
    if backlog.dead_letters > 0 {
        let records = counted(backlog.dead_letters, "record is", "records are");
        tasks.push(Task {
            text: format!("{records} parked, because the service could not apply them."),
            step: "Look at the parked records",
            path: "parked",
        });
    }
    if report.certainty.state == CertaintyState::Late {
        tasks.push(Task {
            text: "Newer events are not applied.".to_owned(),
            step: "Look at the partitions",
            path: "ingest",
        });
    }
    if let Completeness::IncompleteBefore(before) = report.completeness {
        let before = clock::format_instant(before);
        tasks.push(Task {
            text: format!(
                "Events from before {before} may be missing. A synchronization adds them."
            ),
            step: "Look at the ingest",
            path: "ingest",
        });
    }
    tasks
}
