//! Edits in storage without a business event. They happen only if storage publishes its changes: see
//! [`super::Settings::edits`].

use rand::Rng;
use rand::seq::IndexedRandom;

use super::event::{Fact, StatusChange};
use super::library::Library;
use super::people::GROUPS;
use super::policy::{LoanPolicy, Material, policy};
use super::random::{new_id, weighted_index};
use super::storage::{Loan, LoanState};

/// The probability of a missing item as a multiple of the share of claimed loans.
const MISSING_PER_SHARE: f64 = 5.0;

impl Library {
    /// Performs a random edit.
    pub(super) fn edit(&mut self) {
        match weighted_index(&mut self.rng, &[3, 2, 3, 4]) {
            0 => self.declare_missing(),
            1 => self.delete_loan(),
            2 => self.create_loan_in_storage(),
            _ => self.change_patron_group(),
        }
    }

    /// Closes a loan that is claimed returned, because the item is missing. The probability grows with the share of
    /// these loans, so most of them stay open.
    fn declare_missing(&mut self) {
        let open = self.storage.open_loans.iter().copied();
        let state = |at: usize| self.storage.loans[at].state;
        let claimed: Vec<usize> =
            open.filter(|at| state(*at) == LoanState::ClaimedReturned).collect();
        let share = claimed.len() as f64 / self.storage.open_loans.len().max(1) as f64;
        if !self.random_bool((share * MISSING_PER_SHARE).min(1.0)) {
            return;
        }
        let Some(at) = claimed.choose(&mut self.rng).copied() else { return };
        let (loan, patron) = self.ids(at);
        self.storage.close_loan(at);
        self.emit(Fact::StatusChanged { loan, patron, change: StatusChange::DeclaredMissing });
    }

    /// Deletes the record of an open loan.
    fn delete_loan(&mut self) {
        let Some(at) = self.storage.open_loans.choose(&mut self.rng).copied() else { return };
        let (loan, patron) = self.ids(at);
        self.storage.close_loan(at);
        self.emit(Fact::LoanDeleted { loan, patron });
    }

    /// Creates a loan directly in storage, without a grace period.
    fn create_loan_in_storage(&mut self) {
        let person = self.random_patron();
        let (group, patron) =
            (self.storage.people[person].habits.group, self.storage.people[person].patron.id);
        let policy = LoanPolicy { grace: None, ..policy(group, Material::Book) };
        let due = self.due_after(self.now, policy.period);
        let (id, item) = (new_id(&mut self.id_rng), new_id(&mut self.id_rng));
        let loan = self.storage.add_loan(Loan {
            id,
            person,
            policy,
            due,
            recalled: false,
            state: LoanState::CheckedOut,
            renewals: 0,
            reminder_charged: false,
            lost_item_fees: vec![],
            plan: 0,
        });
        self.emit(Fact::LoanCreatedInStorage { loan: id, patron, item, due });
        self.plan_loan(loan);
    }

    /// Moves a patron to another group, or rarely to no group.
    fn change_patron_group(&mut self) {
        let person = self.random_patron();
        let to = self.rng.random_range(0..GROUPS.len() * 8);
        let group = GROUPS.get(to / 7).map(|group| group.id);
        let patron = &mut self.storage.people[person].patron;
        if !patron.known || patron.patron_group == group {
            return;
        }
        patron.patron_group = group;
        let patron = patron.id;
        self.emit(Fact::PatronGroupChanged { patron, group });
    }
}
