//! Edits in storage of which no business event tells. They happen only where storage tells of itself: see
//! [`super::Settings::edits`].

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::event::{Mark, What};
use super::library::{Library, new_id};
use super::people::{GROUPS, share};
use super::policy::{LoanPolicy, Material, policy};
use super::shelf::{Loan, Whereabouts};

impl Library {
    /// Somebody edits something.
    pub(super) fn edit(&mut self) {
        match share(&mut self.story, &[3, 2, 3, 4]) {
            0 => self.declare_missing(),
            1 => self.erase(),
            2 => self.enter(),
            _ => self.regroup(),
        }
    }

    /// What a patron claims to have returned is missing: the loan is closed.
    fn declare_missing(&mut self) {
        let (shelf, story) = (&self.shelf, &mut self.story);
        let claimed = |at: &&usize| shelf.loans[**at].whereabouts == Whereabouts::ClaimedReturned;
        let Some(at) = shelf.out.iter().filter(claimed).choose(story).copied() else { return };
        let (loan, patron) = self.names(at);
        self.shelf.settle_loan(at);
        self.tell(What::Marked { loan, patron, mark: Mark::DeclaredMissing });
    }

    /// The record of an open loan is deleted.
    fn erase(&mut self) {
        let Some(at) = self.shelf.out.choose(&mut self.story).copied() else { return };
        let (loan, patron) = self.names(at);
        self.shelf.settle_loan(at);
        self.tell(What::Erased { loan, patron });
    }

    /// A loan from elsewhere is written into storage, which knows of no grace period.
    fn enter(&mut self) {
        let person = self.anybody();
        let (group, patron) =
            (self.shelf.people[person].habits.group, self.shelf.people[person].patron.id);
        let policy = LoanPolicy { grace: None, ..policy(group, Material::Book) };
        let due = self.due_after(self.now, policy.period);
        let (id, item) = (new_id(&mut self.ids), new_id(&mut self.ids));
        let loan = self.shelf.lend(Loan {
            id,
            person,
            policy,
            due,
            recalled: false,
            whereabouts: Whereabouts::WithPatron,
            renewals: 0,
            reminded: false,
            lost_fees: vec![],
            plan: 0,
        });
        self.tell(What::Entered { loan: id, patron, item, due });
        self.plan_for(loan);
    }

    /// A patron moves to another group, and once in a while to none.
    fn regroup(&mut self) {
        let person = self.anybody();
        let to = self.story.random_range(0..GROUPS.len() * 8);
        let group = GROUPS.get(to / 7).map(|group| group.id);
        let patron = &mut self.shelf.people[person].patron;
        if !patron.known || patron.patron_group == group {
            return;
        }
        patron.patron_group = group;
        let patron = patron.id;
        self.tell(What::Regrouped { patron, group });
    }
}
