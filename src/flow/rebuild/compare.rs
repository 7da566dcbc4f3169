//! Comparing what the source says with what is known: what differs of whom, and which blocks depend on it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    ask::Source,
    plan::complete_from,
    read, report, storage,
    work::{Failure, Work},
};
use crate::{
    blocks::{self, Measures},
    clock,
    event::{Event, Stamp},
    flow::policy::Policy,
    patron::{Fee, Loan, OpenFee, OpenLoan},
    store::{
        Schema, Tx,
        differences::{self, Difference},
        patrons,
        rows::{self, Row, Rows, Spoken},
        shadow,
        tail::{self, Tail},
    },
};

/// Loans and fees/fines that are looked at at once.
const STEP: i64 = 500;

/// Patrons whose blocks are looked at at once.
const PATRONS: i64 = 200;

/// Finds out what differs.
pub(super) async fn compare(work: &Work) -> Result<(), Failure> {
    let schema = &work.tenant.schema;
    let mut tx = work.begin().await?;
    let state = whole(&mut tx, work).await?;
    differences::forget(&mut tx, schema, work.id).await?;
    let tells_of_ended = work.ask.source != Source::Storage;
    let found =
        shadow::find_candidates(&mut tx, &work.shadow, work.ask.scope, tells_of_ended).await?;
    shadow::count_groups(&mut tx, &work.shadow).await?;
    work.commit(tx).await?;
    work.progress.begin("comparing", u64::try_from(found).unwrap_or_default());
    let mut after = Uuid::nil();
    loop {
        let began = Instant::now();
        let mut tx = work.begin().await?;
        // A crash of the database empties what is left of them.
        whole(&mut tx, work).await?;
        let candidates = shadow::next_candidates(&mut tx, &work.shadow, after, STEP).await?;
        let Some((last, _)) = candidates.last() else { break };
        after = *last;
        let (loans, fees) = divide(&candidates);
        let targets = Targets::of(&mut tx, work, &state, &loans, &fees).await?;
        differences::add(&mut tx, schema, work.id, &targets.differences()).await?;
        work.commit(tx).await?;
        work.progress.add(candidates.len() as u64);
        work.pace.keep(began).await;
    }
    compare_counters(work).await?;
    compare_blocks(work).await
}

/// The shadow with all of the source in it.
pub(super) async fn whole(tx: &mut Tx, work: &Work) -> Result<shadow::State, Failure> {
    let state = shadow::state(tx, &work.shadow).await?;
    let mut state = state.filter(|state| state.whole).ok_or(Failure::Lost)?;
    // Nothing is dropped then.
    if work.ask.source == Source::Storage || work.ask.fill {
        return Ok(state);
    }
    // What came since reading began is in the inbox, unless it has gone from there.
    let (extent, began) = (work.inbox_extent(tx).await?, state.read_from + read::MARGIN);
    if let Some(gone) = extent.gone_until
        && gone > began
    {
        return Err(Failure::Refused(format!(
            "its source was read at {}, and of what came since some has gone from the inbox, until {}: have it \
             read again",
            clock::written(began),
            clock::written(gone),
        )));
    }
    if work.ask.source == Source::Topics {
        // What came over HTTP is nowhere else.
        state.covered.http = state.covered.http.max(Some(complete_from(extent.complete_since())));
    }
    Ok(state)
}

/// Which are loans, and which fees/fines.
pub(super) fn divide(subjects: &[(Uuid, bool)]) -> (Vec<Uuid>, Vec<Uuid>) {
    let of = |wanted| {
        subjects.iter().filter(move |(_, is_loan)| *is_loan == wanted).map(|(id, _)| *id).collect()
    };
    (of(true), of(false))
}

async fn compare_counters(work: &Work) -> Result<(), Failure> {
    let mut users = patrons::drift(work.db(), &work.tenant.schema).await?;
    users.retain(|user| work.ask.scope.includes(*user));
    if users.is_empty() {
        return Ok(());
    }
    let none = vec![0; users.len()];
    let mut tx = work.begin().await?;
    differences::add_patrons(&mut tx, &work.tenant.schema, work.id, &users, (&none, &none), true)
        .await?;
    work.commit(tx).await
}

/// Which conditions block those patrons of whom something differs, before and after.
async fn compare_blocks(work: &Work) -> Result<(), Failure> {
    let mut tx = work.begin().await?;
    let policy = Policy::load(&mut tx, &work.tenant.schema).await?;
    drop(tx);
    let (nothing, mut offset) = (Standing::default(), 0);
    loop {
        let began = Instant::now();
        let mut tx = work.begin().await?;
        let schema = &work.tenant.schema;
        whole(&mut tx, work).await?;
        let page = differences::patrons(&mut *tx, schema, work.id, PATRONS, offset).await?;
        if page.is_empty() {
            return Ok(());
        }
        let users: Vec<Uuid> = page.iter().map(|patron| patron.user_id).collect();
        let now = work.clock.now();
        let groups: HashMap<Uuid, String> = patrons::groups(&mut tx, schema, &users).await?;
        let (before, after) = standings(&mut tx, work, &users).await?;
        let stand = |user: Uuid| {
            let group = groups.get(&user).map(|group| &**group);
            let here = before.get(&user).unwrap_or(&nothing).told(&policy, group, now);
            let there = after.get(&user).unwrap_or(&nothing).told(&policy, group, now);
            (user, here, there)
        };
        let standings: Vec<_> = users.into_iter().map(stand).collect();
        differences::set_standings(&mut tx, schema, work.id, &standings).await?;
        work.commit(tx).await?;
        offset += PATRONS;
        work.pace.keep(began).await;
    }
}

/// What a patron has open.
#[derive(Default)]
struct Standing {
    loans: BTreeMap<Uuid, OpenLoan>,
    fees: BTreeMap<Uuid, OpenFee>,
}

impl Standing {
    /// To be told. Whose group nobody knows is asked at the desk; there is nothing to compare with here.
    fn told(
        &self,
        policy: &Policy,
        group: Option<&str>,
        now: DateTime<Utc>,
    ) -> differences::Standing {
        let blocked = group.map(|group| self.blocked(policy, group, now));
        differences::Standing { loans: self.loans.len(), blocked }
    }

    /// The conditions that block the patron from something.
    fn blocked(&self, policy: &Policy, group: &str, now: DateTime<Utc>) -> Vec<String> {
        let loans = self.loans.iter().map(|(id, loan)| (*id, loan));
        let measures = Measures::of(loans, self.fees.values(), now);
        let limits = policy.limits_of(group);
        let findings = blocks::evaluate(&measures, limits, &policy.conditions);
        let blocking = findings.iter().filter(|finding| !finding.blocked.is_empty());
        let names: BTreeSet<String> =
            blocking.map(|finding| finding.condition.id.to_string()).collect();
        names.into_iter().collect()
    }
}

type Standings = BTreeMap<Uuid, Standing>;

/// What these patrons have open, as things are and as they are to be.
async fn standings(
    tx: &mut Tx,
    work: &Work,
    users: &[Uuid],
) -> Result<(Standings, Standings), Failure> {
    let schema = &work.tenant.schema;
    let state = whole(tx, work).await?;
    let mut subjects = rows::open_of(tx, schema, users).await?;
    let differing = differences::counting(tx, schema, work.id, users).await?;
    subjects.extend(differing.iter());
    subjects.sort();
    subjects.dedup();
    let is_different: BTreeSet<Uuid> = differing.iter().map(|(subject, _)| *subject).collect();
    let (loans, fees) = divide(&subjects);
    let targets = Targets::of(tx, work, &state, &loans, &fees).await?;
    let (mut before, mut after) = (Standings::new(), Standings::new());
    for (id, pair) in &targets.loans {
        let here = pair.here.open_loan();
        // What is not different is not touched.
        let there = if is_different.contains(id) { pair.there.open_loan() } else { here };
        for (open, standings) in [(here, &mut before), (there, &mut after)] {
            if let Some(open) = open {
                standings.entry(open.user).or_default().loans.insert(*id, open);
            }
        }
    }
    for (id, pair) in &targets.fees {
        let here = pair.here.open_fee();
        let there = if is_different.contains(id) { pair.there.open_fee() } else { here };
        for (open, standings) in [(here, &mut before), (there, &mut after)] {
            if let Some(open) = open {
                standings.entry(open.user).or_default().fees.insert(*id, open);
            }
        }
    }
    Ok((before, after))
}

/// A row as it is, and as it is to be.
pub(super) struct Pair<T> {
    pub(super) here: Row<T>,
    pub(super) there: Row<T>,
}

/// What loans and fees/fines are, and are to be.
pub(super) struct Targets {
    pub(super) loans: BTreeMap<Uuid, Pair<Loan>>,
    pub(super) fees: BTreeMap<Uuid, Pair<Fee>>,
}

impl Targets {
    /// Reads rows and shadow, and what came in since the source was read.
    pub(super) async fn of(
        tx: &mut Tx,
        work: &Work,
        state: &shadow::State,
        loans: &[Uuid],
        fees: &[Uuid],
    ) -> Result<Self, Failure> {
        let schema: &Schema = &work.tenant.schema;
        let mut said_loans = rows::loans(tx, &work.shadow, loans).await?;
        let mut said_fees = rows::fees(tx, &work.shadow, fees).await?;
        let all: Vec<Uuid> = loans.iter().chain(fees).copied().collect();
        let tail = match work.ask.source {
            Source::Inbox => Tail::All,
            Source::Topics | Source::Storage => Tail::Since(state.read_from),
        };
        for stored in tail::of(tx, &work.shadow, &all, tail).await? {
            if let Some(event) = read::event(&stored)? {
                add(&mut said_loans, Loan::said_by, &event, Loan::merge);
                add(&mut said_fees, Fee::said_by, &event, Fee::merge);
            }
        }
        let mut live_loans = rows::loans(tx, schema, loans).await?;
        let mut live_fees = rows::fees(tx, schema, fees).await?;
        let covered = &state.covered;
        let mut loans = pairs(loans, &mut said_loans, &mut live_loans, |said, here| {
            Loan::reconciled(said, here, covered)
        });
        let mut fees = pairs(fees, &mut said_fees, &mut live_fees, |said, here| {
            Fee::reconciled(said, here, covered)
        });
        if work.ask.source == Source::Storage {
            let unread = shadow::unread(tx, &work.shadow, &all).await?;
            let at = state.read_from - storage::MARGIN;
            keep_open(&unread, Stamp::snapshot(at, work.id), &mut loans, &mut fees);
        }
        let owner = |loan: &Loan| loan.opened().map(|(_, user)| user);
        let debtor = |fee: &Fee| fee.user.map(|(_, user)| user);
        let mut users: Vec<Uuid> = Vec::new();
        users.extend(loans.values().filter_map(|pair| owner(&pair.there.known)));
        users.extend(fees.values().filter_map(|pair| debtor(&pair.there.known)));
        let mut spoken = Spoken::default();
        for schema in [schema, &*work.shadow] {
            rows::spoken(tx, schema, &users, &mut spoken).await?;
        }
        for row in loans.values_mut().map(|pair| &mut pair.there) {
            row.horizon = row.pruned.max(spoken.of_loan(owner(&row.known)));
        }
        for row in fees.values_mut().map(|pair| &mut pair.there) {
            row.horizon = row.pruned.max(spoken.of_fee(debtor(&row.known)));
        }
        Ok(Self { loans, fees })
    }

    /// What differs.
    pub(super) fn differences(&self) -> Vec<Difference> {
        let loans = self.loans.iter().filter_map(|(id, pair)| report::loan(*id, pair));
        let fees = self.fees.iter().filter_map(|(id, pair)| report::fee(*id, pair));
        loans.chain(fees).collect()
    }
}

/// What storage holds as open and says nothing of that can be read stays as it is known.
fn keep_open(
    unread: &[Uuid],
    stamp: Stamp,
    loans: &mut BTreeMap<Uuid, Pair<Loan>>,
    fees: &mut BTreeMap<Uuid, Pair<Fee>>,
) {
    for id in unread {
        if let Some(pair) = loans.get_mut(id)
            && let Some(open) = pair.here.open_loan()
            && pair.there.known.opened().is_none_or(|(said, _)| said < stamp)
        {
            pair.there.known.snapshot = Some((stamp, open.user));
        }
        if let Some(pair) = fees.get_mut(id)
            && let Some((said, balance)) = pair.here.known.balance
            && pair.here.open_fee().is_some()
            && said < stamp
        {
            pair.there.known.balance = Some((stamp, balance));
        }
    }
}

fn add<T: Default>(
    rows: &mut Rows<T>,
    said_by: fn(&Event) -> Option<(Uuid, T)>,
    event: &Event,
    merge: fn(T, T) -> T,
) {
    if let Some((id, said)) = said_by(event) {
        let row = rows.entry(id).or_default();
        row.known = merge(std::mem::take(&mut row.known), said);
    }
}

/// Rows as they are, and as they are to be but for how far snapshots spoke. How far was pruned when a row was
/// made counts as the one of both says that has it earlier: an old loan that is open is not pruned.
fn pairs<T: Default + Clone + PartialEq>(
    ids: &[Uuid],
    said: &mut Rows<T>,
    live: &mut Rows<T>,
    reconciled: impl Fn(T, T) -> T,
) -> BTreeMap<Uuid, Pair<T>> {
    let mut pairs = BTreeMap::new();
    for id in ids {
        let (here, said) = (live.remove(id), said.remove(id));
        let pruned = match (&here, &said) {
            (Some(here), Some(said)) => here.pruned.min(said.pruned),
            (Some(one), None) | (None, Some(one)) => one.pruned,
            (None, None) => None,
        };
        let here = here.unwrap_or_default();
        let known = reconciled(said.unwrap_or_default().known, here.known.clone());
        pairs.insert(*id, Pair { here, there: Row { known, pruned, horizon: None } });
    }
    pairs
}

impl Row<Loan> {
    /// The loan as it counts.
    pub(super) fn open_loan(&self) -> Option<OpenLoan> {
        self.known.open(self.horizon)
    }
}

impl Row<Fee> {
    /// The fee/fine as it counts.
    pub(super) fn open_fee(&self) -> Option<OpenFee> {
        self.known.open(self.horizon)
    }
}
