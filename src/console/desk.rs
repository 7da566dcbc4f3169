//! The desk page: whether a patron may borrow, renew and request, and what to ask the patron for.

use actix_web::HttpResponse;
use askama::Template;
use uuid::Uuid;

use super::{
    answers::{self, Answers, LimitRow, LoadedPatron, Mark, Marks},
    response::PageError,
    shell::Shell,
    texts::Texts,
    titles::Titles,
    visit::Visit,
    words,
};
use crate::{
    blocks::{ExplainedFee, ExplainedLoan, amount_text},
    clock,
};

#[derive(Template)]
#[template(path = "desk.html")]
struct DeskPage {
    shell: Shell,
    user: Uuid,
    answers: Answers,
    loans: Vec<LoanLine>,
    /// Other loans that can replace some of `loans`.
    alternatives: usize,
    fees_fines: Vec<FeeLine>,
    /// Why the titles are absent.
    no_titles: &'static str,
}

/// A loan to return.
struct LoanLine {
    id: Uuid,
    title: String,
    due_date: Option<String>,
    state: String,
    /// The actions that the return makes possible.
    actions: String,
    is_required: bool,
}

/// A fee/fine to settle.
struct FeeLine {
    id: Uuid,
    loan: Option<Uuid>,
    title: String,
    balance: String,
    /// The actions that the settlement makes possible.
    actions: String,
}

/// Returns the page of one patron.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let user = answers::patron_of(&visit).map_err(|error| visit.failed(error))?;
    let load = async {
        let loaded = answers::load(&visit, user).await?;
        let mut page = DeskPage::new(visit.shell("desk").await, &loaded);
        page.add_titles(&visit).await;
        Ok(page)
    };
    visit.render(load).await
}

impl DeskPage {
    fn new(shell: Shell, loaded: &LoadedPatron) -> Self {
        let limits = loaded.patron.limits();
        let explanation = loaded.patron.explain(&limits);
        let texts = shell.texts;
        let marks = Marks::new(texts, &explanation);
        let (mut loans, mut alternatives) = (Vec::new(), 0);
        for loan in &explanation.loans {
            match marks.of_loan(loan.id) {
                Some(Mark::Required(actions)) => {
                    loans.push(LoanLine::new(texts, loan, actions, true));
                }
                Some(Mark::Suggested(actions)) => {
                    loans.push(LoanLine::new(texts, loan, actions, false));
                }
                Some(Mark::Alternative(_)) => alternatives += 1,
                None => {}
            }
        }
        let fees_fines = explanation.fees_fines.iter();
        let fees_fines =
            fees_fines.filter_map(|fee| Some(FeeLine::new(fee, marks.of_fee(fee.id)?)));
        Self {
            shell,
            user: loaded.patron.user,
            answers: Answers::new(texts, loaded, &explanation),
            loans,
            alternatives,
            fees_fines: fees_fines.collect(),
            no_titles: "",
        }
    }

    /// Adds the titles that the reader may see.
    async fn add_titles(&mut self, visit: &Visit) {
        let loans = self.loans.iter().map(|loan| loan.id);
        let mut ids: Vec<Uuid> = loans.collect();
        let of_fees = self.fees_fines.iter().filter_map(|fee| fee.loan);
        ids.extend(of_fees.filter(|loan| !ids.contains(loan)).collect::<Vec<_>>());
        let titles = Titles::fetch(visit, &ids).await;
        self.no_titles = titles.problem;
        self.loans.iter_mut().for_each(|loan| loan.title = titles.of(loan.id));
        for fee in &mut self.fees_fines {
            fee.title = fee.loan.map(|loan| titles.of(loan)).unwrap_or_default();
        }
    }

    /// Returns the limits that are reached.
    fn reached_limits(&self) -> impl Iterator<Item = &LimitRow> {
        self.answers.limits.iter().filter(|limit| limit.is_reached)
    }
}

impl LoanLine {
    fn new(
        texts: &'static Texts,
        loan: &ExplainedLoan,
        actions: String,
        is_required: bool,
    ) -> Self {
        Self {
            id: loan.id,
            title: String::new(),
            due_date: loan.loan.due_date.map(clock::format_instant),
            state: words::loan_state(texts, &loan.loan, loan.overdue_days, loan.left_out),
            actions,
            is_required,
        }
    }
}

impl FeeLine {
    fn new(fee: &ExplainedFee, actions: String) -> Self {
        let (loan, balance) = (fee.fee.loan, amount_text(fee.fee.balance));
        Self { id: fee.id, loan, title: String::new(), balance, actions }
    }
}
