//! The schema of a tenant, the only place that inserts a tenant's name into SQL.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::event::TenantId;

/// The name of the module's schema, which contains the tables that belong to no tenant.
const MODULE_SCHEMA: &str = "mod_patron_blocks";

/// A statement with the placeholder `{schema}` for the schema of a tenant or of a shadow. In a statement
/// on a shadow, `{live}` is the schema of the tenant.
#[derive(Debug)]
pub struct Statement(&'static str);

impl Statement {
    /// Creates a statement.
    pub const fn new(text: &'static str) -> Self {
        Self(text)
    }
}

/// A statement composed for one query. Its text consists of constants and parameter numbers. Input of
/// clients is bound, so the text cannot contain it.
#[derive(Debug, Default)]
pub struct Composed(String);

impl Composed {
    /// Appends text with the placeholder `{schema}`, as in a [`Statement`].
    pub fn push(&mut self, text: &'static str) {
        self.0.push_str(text);
    }

    /// Appends a parameter, `$1` for 1.
    pub fn push_parameter(&mut self, number: usize) {
        self.0.push('$');
        self.0.push_str(&number.to_string());
    }
}

/// The schema of one tenant, of a shadow, or of the module. Each completed statement is cached, so a
/// connection finds the statement among its prepared statements. The service never changes a
/// `search_path`. On a pooled connection, a statement prepared for one tenant would access another
/// tenant's tables (invariant I6 of ARCHITECTURE.md).
#[derive(Debug)]
pub struct Schema {
    name: String,
    /// The tenant's schema that replaces `{live}`; only a shadow has one.
    live: Option<String>,
    cache: RwLock<HashMap<(usize, usize), Arc<str>>>,
}

impl Schema {
    /// Returns the schema of a tenant: `{tenant}_mod_patron_blocks`.
    pub fn of(tenant: &TenantId) -> Self {
        Self::named(format!("{tenant}_{MODULE_SCHEMA}"))
    }

    /// Returns the module's schema, which has only the tables of the statements on dead letters.
    pub fn module() -> Self {
        Self::named(MODULE_SCHEMA.to_owned())
    }

    /// Returns whether this is the module's schema.
    pub(super) fn is_module(&self) -> bool {
        self.name == MODULE_SCHEMA
    }

    /// Returns the schema of a rebuild's shadow, by the rebuild's id. A shadow has tables of the same
    /// names as the tenant's schema, so statements on these tables also work on a shadow.
    pub fn shadow(tenant: &TenantId, rebuild: Uuid) -> Self {
        let live = Self::of(tenant).name;
        let (number, ..) = rebuild.as_fields();
        Self { live: Some(live.clone()), ..Self::named(format!("{live}_r{number:08x}")) }
    }

    fn named(name: String) -> Self {
        Self { name, live: None, cache: RwLock::default() }
    }

    /// Returns the name of the schema. The name needs no quotes, because tenant ids are validated at
    /// creation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the statement for this schema. Safe: the inserted text is a validated tenant id and a
    /// constant.
    pub fn sql(&self, statement: &Statement) -> AssertSqlSafe<Arc<str>> {
        let key = (statement.0.as_ptr().addr(), statement.0.len());
        let cached = self.cache.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        AssertSqlSafe(cached.unwrap_or_else(|| {
            let mut text = statement.0.replace("{schema}", &self.name);
            if let Some(live) = &self.live {
                text = text.replace("{live}", live);
            }
            let text: Arc<str> = text.into();
            let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
            cache.insert(key, text.clone());
            text
        }))
    }

    /// Returns a composed statement for this schema, without caching. Safe for the same reason as
    /// [`Schema::sql`].
    pub fn composed(&self, statement: &Composed) -> AssertSqlSafe<String> {
        AssertSqlSafe(statement.0.replace("{schema}", &self.name))
    }
}
