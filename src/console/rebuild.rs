//! Rebuilds from the command line: asked for, worked on and watched here, and told in words.

use std::{io::Write, sync::Arc, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Desk, Failure, id_of};
use crate::{
    config::Config,
    event::TenantId,
    flow::{
        rebuild::{Ask, Asked, Rebuilds, Setting, Source, told_patron, told_rebuild, words},
        tenants::{Tenant, Tenants},
    },
    kafka::Broker,
    okapi::{Caller, Calls, Storage},
    store::{
        differences,
        rebuilds::{self, Rebuild, Status},
        tenants,
    },
};

/// How often a rebuild is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Patrons that are told of in words.
const TOLD: i64 = 20;

/// Patrons at once where all are told.
const PAGE: i64 = 500;

/// What to rebuild, and from what.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The tenant
    #[arg(long, required_unless_present = "all_tenants")]
    tenant: Option<String>,
    /// All tenants that are enabled: topics that they share are read once
    #[arg(long, conflicts_with_all = ["tenant", "user", "id", "token"])]
    all_tenants: bool,
    /// What is read: topics, inbox, or storage
    #[arg(long, default_value = "topics")]
    source: String,
    /// From where on: earliest, a date-time, or topics as topic/partition@offset with commas between
    #[arg(long, default_value = "earliest")]
    from: String,
    /// Only this patron
    #[arg(long)]
    user: Option<String>,
    /// Where topics don't hold everything any more: inbox, if that speaks for the rest
    #[arg(long)]
    covered_by: Option<String>,
    /// Merge what the topics hold, however little that is, and drop nothing that is known
    #[arg(long)]
    fill: bool,
    /// Only tell what differs, which is what happens where nothing else is said; it may be applied later
    #[arg(long)]
    dry_run: bool,
    /// Put right what differs
    #[arg(long, conflicts_with = "dry_run")]
    apply: bool,
    /// An earlier rebuild whose differences are applied, instead of looking for them anew
    #[arg(long, requires = "apply", conflicts_with_all = ["source", "from", "user", "covered_by", "fill"])]
    id: Option<String>,
    /// A token with which the storage modules may be asked through OKAPI_URL
    #[arg(long, env = "OKAPI_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// One JSON object for the rebuild, then one a line for each patron of whom something differs
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// The tenant's id, as given.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }

    fn ask(&self) -> Result<Ask, Failure> {
        let mut body = json!({ "source": self.source, "from": self.from, "dryRun": !self.apply, "fill": self.fill });
        if let Some(user) = &self.user {
            (body["scope"], body["userId"]) = (json!("user"), json!(user));
        }
        if let Some(covering) = &self.covered_by {
            body["coveredBy"] = json!(covering);
        }
        Ask::read(&body).map_err(|refused| Failure::Argument(refused.to_string()))
    }
}

/// Has it done, by this process or by an instance that is quicker, and tells of it. `true` where it was done,
/// or where nothing differs.
pub(super) async fn rebuild(
    config: &Config,
    desk: &Desk,
    arguments: &Arguments,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let tenants = Arc::new(Tenants::new(desk.db.clone(), desk.clock.clone()));
    let broker = Arc::new(Broker::new(&config.kafka).map_err(Failure::Kafka)?);
    let storage = Storage::new(Calls::new(config.okapi.breaker).map_err(Failure::Client)?);
    let works = Arc::new(Rebuilds::new(
        (desk.db.clone(), config.database.login.clone()),
        tenants.clone(),
        desk.clock.clone(),
        (config.kafka.clone(), broker, storage),
        Setting { at_once: 1, ..config.rebuild },
    ));
    let asked = ask(desk, &tenants, &works, arguments).await?;
    let all = asked.all.clone();
    let stop = CancellationToken::new();
    let caller = Caller {
        okapi_url: config.okapi.gateway.url.clone(),
        is_elsewhere: false,
        tenant: arguments.tenant.clone().unwrap_or_default(),
        token: arguments.token.clone(),
        request_id: None,
    };
    let working = tokio::spawn(works.work_on(asked, caller, stop.clone()));
    let ended = watch(desk, &all).await;
    stop.cancel();
    let _ = working.await;
    let mut is_good = true;
    for rebuild in ended? {
        let Some(tenant) = tenants.find(&rebuild.tenant).await? else { continue };
        if arguments.all_tenants && !desk.json {
            writeln!(out, "tenant {}", rebuild.tenant)?;
        }
        is_good &= tell(desk, &tenant, &rebuild, out).await?;
    }
    Ok(is_good)
}

/// Enters what is asked for, or has what an earlier one found be applied.
async fn ask(
    desk: &Desk,
    known: &Tenants,
    works: &Rebuilds,
    arguments: &Arguments,
) -> Result<Asked, Failure> {
    if arguments.all_tenants {
        let ask = arguments.ask()?;
        if ask.source == Source::Storage {
            let rule = "a token is one tenant's: name the tenant for source storage";
            return Err(Failure::Argument(rule.to_owned()));
        }
        let mut all: Vec<TenantId> = tenants::enabled(&desk.db).await?.into_keys().collect();
        all.sort();
        return Ok(works.ask_all(&desk.db, &all, &ask, "command line").await?);
    }
    let id = desk.tenant.as_ref().ok_or_else(|| Failure::Argument("--tenant is missing".into()))?;
    let Some(tenant) = known.find(id).await? else {
        return Err(Failure::Argument(format!("tenant {id} is not enabled")));
    };
    let rebuild = match &arguments.id {
        Some(earlier) => {
            let id = id_of(earlier)?;
            if !rebuilds::apply(&desk.db, &tenant.id, id).await? {
                let rule = "there is no rebuild with this id whose differences wait to be applied";
                return Err(Failure::Argument(rule.to_owned()));
            }
            id
        }
        None => works.ask(&desk.db, &tenant, &arguments.ask()?, "command line").await?,
    };
    Ok(Asked { all: vec![(tenant.id.clone(), rebuild)], together: None })
}

/// Shows how far they are until all are at rest. Ctrl-C ends them where they stand, and waits until nothing is
/// left of them.
async fn watch(desk: &Desk, asked: &[(TenantId, Uuid)]) -> Result<Vec<Rebuild>, Failure> {
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{msg:>18} {wide_bar} {human_pos}/{human_len}  {prefix}");
    bar.set_style(style.expect("the template is a constant that can be read"));
    let ids: Vec<Uuid> = asked.iter().map(|(_, id)| *id).collect();
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            _ = tokio::signal::ctrl_c() => {
                for (tenant, id) in asked {
                    rebuilds::cancel(&desk.db, tenant, *id).await?;
                }
                bar.set_message("ending");
            }
        }
        let all = rebuilds::find_all(&desk.db, &ids).await?;
        if all.len() < ids.len() {
            let problem = "a rebuild is gone: its tenant was purged";
            return Err(Failure::Argument(problem.to_owned()));
        }
        let is_at_rest =
            |rebuild: &Rebuild| rebuild.status.has_ended() || rebuild.status == Status::Compared;
        let ended = all.iter().filter(|rebuild| is_at_rest(rebuild)).count();
        if ended == all.len() {
            bar.finish_and_clear();
            return Ok(all);
        }
        match &*all {
            [one] => show(&bar, &one.progress),
            all => {
                bar.set_message("tenants");
                bar.set_length(all.len() as u64);
                bar.set_position(ended as u64);
            }
        }
    }
}

fn show(bar: &ProgressBar, progress: &Value) {
    let number = |name: &str| progress[name].as_f64().unwrap_or_default();
    bar.set_message(progress["stage"].as_str().unwrap_or("waiting").to_owned());
    bar.set_length(number("total") as u64);
    bar.set_position(number("done") as u64);
    let left = Duration::from_secs(number("secondsLeft") as u64);
    bar.set_prefix(format!("{:.0}/s, {} left", number("rate"), indicatif::HumanDuration(left)));
}

async fn tell(
    desk: &Desk,
    tenant: &Tenant,
    rebuild: &Rebuild,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let left = number(rebuild, "/passedOver");
    let waits = rebuild.status == Status::Compared && rebuild.request["dryRun"] == json!(false);
    let is_good = matches!(rebuild.status, Status::Done | Status::Compared) && left == 0 && !waits;
    if desk.json {
        writeln!(out, "{}", told_rebuild(rebuild))?;
        let mut offset = 0;
        while tell_page(desk, tenant, rebuild.id, offset, out).await? {
            offset += PAGE;
        }
        return Ok(is_good);
    }
    writeln!(out, "rebuild {}: {}", rebuild.id, rebuild.status.name())?;
    if let Some(error) = &rebuild.error {
        writeln!(out, "{error}")?;
    }
    for problem in &rebuild.problems {
        writeln!(out, "{problem}")?;
    }
    if rebuild.summary.is_none() {
        return Ok(is_good);
    }
    let number = |pointer: &str| number(rebuild, pointer);
    writeln!(
        out,
        "{} patrons differ; {} have wrong counters; blocks imposed on {}, lifted from {}",
        number("/patrons"),
        number("/wrongCounters"),
        number("/blocksImposed"),
        number("/blocksLifted")
    )?;
    for (what, of) in [("loans", "/loans"), ("fees/fines", "/feesFines")] {
        writeln!(
            out,
            "{what}: {} open only here, {} open only in the source, {} different, {} different in nothing \
             that counts now",
            number(&format!("{of}/onlyHere")),
            number(&format!("{of}/onlyInSource")),
            number(&format!("{of}/different")),
            number(&format!("{of}/hidden"))
        )?;
    }
    let source = match rebuild.request["source"].as_str() {
        Some("inbox") => "the inbox",
        Some("storage") => "storage",
        _ => "the log",
    };
    let schema = &tenant.schema;
    let patrons = differences::patrons(&desk.db, schema, rebuild.id, TOLD, 0).await?;
    let users: Vec<Uuid> = patrons.iter().map(|patron| patron.user_id).collect();
    let differences = differences::of_patrons(&desk.db, schema, rebuild.id, &users).await?;
    for patron in &patrons {
        for line in words(patron, &differences, source) {
            writeln!(out, "  {}: {line}", patron.user_id)?;
        }
    }
    if rebuild.status == Status::Compared && number("/patrons") > 0 {
        writeln!(out, "nothing was changed; apply it with --apply --id {}", rebuild.id)?;
    }
    Ok(is_good)
}

/// A number of its summary.
fn number(rebuild: &Rebuild, pointer: &str) -> i64 {
    let number = rebuild.summary.as_ref().and_then(|summary| summary.pointer(pointer));
    number.and_then(Value::as_i64).unwrap_or_default()
}

/// Tells whether there may be more.
async fn tell_page(
    desk: &Desk,
    tenant: &Tenant,
    id: Uuid,
    offset: i64,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let schema = &tenant.schema;
    let patrons = differences::patrons(&desk.db, schema, id, PAGE, offset).await?;
    let users: Vec<Uuid> = patrons.iter().map(|patron| patron.user_id).collect();
    let differences = differences::of_patrons(&desk.db, schema, id, &users).await?;
    for patron in &patrons {
        writeln!(out, "{}", told_patron(patron, &differences))?;
    }
    Ok(!patrons.is_empty())
}
