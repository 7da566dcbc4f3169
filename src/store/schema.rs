//! The one place where a tenant's name gets into SQL.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::event::TenantId;

/// The schema of what belongs to no tenant.
const MODULE_SCHEMA: &str = "mod_patron_blocks";

/// A statement as written: `{schema}` stands for the schema of the tenant it is run for, or for a shadow of
/// that, and then `{live}` for the tenant's.
#[derive(Debug)]
pub struct Statement(&'static str);

impl Statement {
    /// A statement.
    pub const fn new(text: &'static str) -> Self {
        Self(text)
    }
}

/// A statement that is put together for one question. Its text is made of constants and of numbers of
/// parameters, so nothing that a client has written can get into it: that is bound.
#[derive(Debug, Default)]
pub struct Composed(String);

impl Composed {
    /// Adds text, in which `{schema}` stands for the schema as in a [`Statement`].
    pub fn push(&mut self, text: &'static str) {
        self.0.push_str(text);
    }

    /// Adds a parameter, `$1` for 1.
    pub fn push_parameter(&mut self, number: usize) {
        self.0.push('$');
        self.0.push_str(&number.to_string());
    }
}

/// One tenant's schema. Each statement is filled in once and kept, so that a connection finds it among
/// its prepared ones. A `search_path` is never switched: on a pooled connection a statement prepared
/// for one tenant would meet the tables of another (invariant I6 of ARCHITECTURE.md).
#[derive(Debug)]
pub struct Schema {
    name: String,
    /// Of a shadow: the schema of what it is a shadow of, which `{live}` stands for.
    live: Option<String>,
    cache: RwLock<HashMap<(usize, usize), Arc<str>>>,
}

impl Schema {
    /// The schema of a tenant: `{tenant}_mod_patron_blocks`.
    pub fn of(tenant: &TenantId) -> Self {
        Self::named(format!("{tenant}_{MODULE_SCHEMA}"))
    }

    /// The schema of what belongs to no tenant; of the statements it has only those on dead letters.
    pub fn module() -> Self {
        Self::named(MODULE_SCHEMA.to_owned())
    }

    /// The schema in which a rebuild of a tenant lays out what its source says, by the rebuild's id. Its
    /// tables are those of the tenant, so statements on those do for it, too.
    pub fn shadow(tenant: &TenantId, rebuild: Uuid) -> Self {
        let live = Self::of(tenant).name;
        let (number, ..) = rebuild.as_fields();
        Self { live: Some(live.clone()), ..Self::named(format!("{live}_r{number:08x}")) }
    }

    fn named(name: String) -> Self {
        Self { name, live: None, cache: RwLock::default() }
    }

    /// The schema's name. Tenant ids are checked when they are made, so it needs no quotes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The statement for this schema. Safe: what is filled in is a checked tenant id and a constant.
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

    /// A composed statement for this schema; it is not kept. Safe as [`Schema::sql`] is.
    pub fn composed(&self, statement: &Composed) -> AssertSqlSafe<String> {
        AssertSqlSafe(statement.0.replace("{schema}", &self.name))
    }
}
