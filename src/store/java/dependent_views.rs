//! Views of other users on a relation of this module: moves the views to another relation with the same
//! name.
//!
//! A view references a relation by identity, independent of its name. A plain view is replaced by its own
//! definition, and so references the relation that has the name now. Its owner, grants, comments and
//! dependent views remain unchanged. A materialized view cannot be replaced. Such a view is dropped with
//! all dependent views, and recreated with owner, grants, comments and indexes.

use sqlx::{AssertSqlSafe, FromRow};

use crate::store::{Error, Schema, Tx};

/// Clears the search path, so PostgreSQL returns fully qualified names, which are valid in later
/// statements.
const CLEAR_SEARCH_PATH: &str = "select set_config('search_path', 'pg_catalog', true)";

/// Selects every view that reads the relation directly, and every view that depends on a view to drop. A
/// view to drop has a positive `level`, and a dependent view has a greater level than its source.
const SELECT_VIEWS: &str = "
    with recursive reads as (
      select distinct d.refobjid as what, r.ev_class as view
        from pg_depend d join pg_rewrite r on r.oid = d.objid
       where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass
         and r.ev_class <> d.refobjid
    ), made_again as (
      select r.view, 1 as level
        from reads r join pg_class c on c.oid = r.view
       where r.what = $1::regclass and c.relkind = 'm'
      union
      select r.view, m.level + 1 from made_again m join reads r on r.what = m.view
    ), views as (
      select view, max(level) as level from made_again group by view
      union all
      select view, 0 from reads
       where what = $1::regclass and view not in (select view from made_again)
    )
    select v.view::regclass::text as name, v.level, c.relkind = 'm' as materialized,
           format('create %s %s%s%s as %s%s',
                  case when c.relkind = 'm' then 'materialized view'
                       when v.level > 0 then 'view' else 'or replace view' end,
                  v.view::regclass,
                  ' with (' || array_to_string(c.reloptions, ', ') || ')',
                  ' tablespace ' || quote_ident(t.spcname),
                  rtrim(pg_get_viewdef(v.view), ';'),
                  case when c.relkind = 'm' then ' with no data' end)
             as create, c.relkind = 'm' and c.relispopulated as is_populated,
           c.relowner::regrole::text as owner, pg_has_role(c.relowner, 'USAGE') as is_owned_by_role
      from views v
      join pg_class c on c.oid = v.view
      left join pg_tablespace t on t.oid = c.reltablespace
     order by v.level, name";

/// Selects the owner, indexes and comments of a recreated view as statements. The owner precedes the
/// indexes, so the server evaluates index expressions as the owner, who may have written the expressions.
const SELECT_BELONGINGS: &str = "
    with v as (
      select oid, relowner, relacl, relname,
             case relkind when 'm' then 'materialized view' else 'view' end as kind
        from pg_class where oid = $1::regclass)
    select statement from (
      select 0 as step, format('alter %s %s owner to %s', v.kind, v.oid::regclass, v.relowner::regrole)
               as statement from v
      union all
      select 1, pg_get_indexdef(i.indexrelid) from v join pg_index i on indrelid = v.oid
      union all
      select 2, format('comment on index %s is %L', i.indexrelid::regclass, d.description)
        from v join pg_index i on i.indrelid = v.oid
        join pg_description d on d.objoid = i.indexrelid and d.classoid = 'pg_class'::regclass
      union all
      select 2, format('comment on %s %s is %L', v.kind, v.oid::regclass, d.description)
        from v join pg_description d
          on d.objoid = v.oid and d.classoid = 'pg_class'::regclass and d.objsubid = 0
      union all
      select 2, format('comment on column %s.%I is %L', v.oid::regclass, a.attname, d.description)
        from v join pg_attribute a on a.attrelid = v.oid
        join pg_description d
          on d.objoid = v.oid and d.classoid = 'pg_class'::regclass and d.objsubid = a.attnum
    ) statements
    order by step";

/// Selects the grants on a relation to roles other than the owner, as statements with `%s` for the
/// relation's name.
const SELECT_GRANTS: &str = "
    with granted as (
      select a.*, '' as columns, c.relowner
        from pg_class c cross join aclexplode(c.relacl) a where c.oid = $1::regclass
      union all
      select a.*, format(' (%I)', t.attname), c.relowner
        from pg_class c join pg_attribute t on t.attrelid = c.oid
       cross join aclexplode(t.attacl) a where c.oid = $1::regclass)
    select format('grant %s%s on %%s to %s%s', privilege_type, columns,
                  case grantee when 0 then 'public' else grantee::regrole::text end,
                  case when is_grantable then ' with grant option' end)
      from granted
     where grantee <> relowner and privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')";

/// Selects all other objects that depend on the relation or on a view to drop, or belong to such a view.
/// The migration would lose or leave behind these objects.
const SELECT_BLOCKERS: &str = "
    with views as (
      select oid, ev_class from pg_rewrite
       where ev_class in (select oid from pg_class where relkind in ('v', 'm'))
    )
    select pg_describe_object(d.classid, d.objid, d.objsubid)
      from pg_depend d
     where d.deptype = 'n'
       and (d.refclassid = 'pg_class'::regclass and d.refobjid = any ($1::regclass[])
         or d.refclassid = 'pg_type'::regclass and d.refobjid in (
              select t.oid from pg_class c join pg_type t on c.reltype in (t.oid, t.typelem)
               where c.oid = any ($1::regclass[])))
       and not (d.classid = 'pg_rewrite'::regclass and d.objid in (select oid from views))
       and not (d.classid = 'pg_class'::regclass and d.objid = any ($1::regclass[]))
       and not (d.classid = 'pg_trigger'::regclass and d.objid in (
              select oid from pg_trigger where tgrelid = any ($1::regclass[])))
       and not (d.classid = 'pg_constraint'::regclass and d.objid in (
              select oid from pg_constraint where conrelid = any ($1::regclass[])))
       and not (d.classid = 'pg_policy'::regclass and d.objid in (
              select oid from pg_policy where polrelid = any ($1::regclass[])))
    union
    select format('trigger %I on %s', tgname, tgrelid::regclass)
      from pg_trigger where tgrelid = any ($2::regclass[]) and not tgisinternal
    union
    select format('rule %I on %s', rulename, ev_class::regclass)
      from pg_rewrite where ev_class = any ($2::regclass[]) and rulename <> '_RETURN'
    union
    select format('a column''s default of %s', adrelid::regclass)
      from pg_attrdef where adrelid = any ($2::regclass[])
    union
    select format('statistics %I on %s', stxname, stxrelid::regclass)
      from pg_statistic_ext where stxrelid = any ($2::regclass[])
    union
    select format('a security label on %s', objoid::regclass)
      from pg_seclabel where objoid = any ($2::regclass[]) and classoid = 'pg_class'::regclass";

#[derive(Debug, FromRow)]
struct DependentView {
    name: String,
    level: i32,
    materialized: bool,
    /// Whether the materialized view had rows.
    is_populated: bool,
    create: String,
    owner: String,
    is_owned_by_role: bool,
    #[sqlx(skip)]
    belongings: Vec<String>,
}

/// The views on a relation, with the statements that recreate the views on another relation of the same
/// name.
#[derive(Debug)]
pub struct DependentViews(Vec<DependentView>);

impl DependentViews {
    /// Finds the views, or fails with the obstacles to moving the views. The caller should lock the
    /// relation to prevent new views meanwhile.
    pub async fn find(tx: &mut Tx, schema: &Schema, relation: &str) -> Result<Self, Error> {
        let relation = format!("{}.{relation}", schema.name());
        query(tx, CLEAR_SEARCH_PATH).await?;
        let mut views: Vec<DependentView> = sqlx::query_as(SELECT_VIEWS)
            .bind(&relation)
            .fetch_all(&mut **tx)
            .await
            .map_err(Error::at("find the dependent views of a relation"))?;
        let mut blockers: Vec<String> = views
            .iter()
            .filter(|view| !view.is_owned_by_role)
            .map(|DependentView { name, owner, .. }| {
                format!(
                    "view {name} belongs to role {owner}, and the role of this service is not a member of \
                     that role"
                )
            })
            .collect();
        let dropped: Vec<String> = recreated(&views).map(|view| view.name.clone()).collect();
        let all: Vec<String> = dropped.iter().cloned().chain([relation.clone()]).collect();
        let other_blockers: Vec<String> = sqlx::query_scalar(SELECT_BLOCKERS)
            .bind(&all)
            .bind(&dropped)
            .fetch_all(&mut **tx)
            .await
            .map_err(Error::at("find the other dependent objects of a relation"))?;
        blockers.extend(other_blockers.into_iter().map(|it| format!("{it} cannot be moved")));
        if !blockers.is_empty() {
            return Err(Error::BlockedByDependents { relation, blockers: blockers.join("; ") });
        }
        for view in views.iter_mut().filter(|view| view.level > 0) {
            view.belongings = texts(tx, SELECT_BELONGINGS, &view.name).await?;
            for grant in texts(tx, SELECT_GRANTS, &view.name).await? {
                view.belongings.push(grant.replace("%s", &view.name));
            }
        }
        Ok(Self(views))
    }

    /// Returns the number of views.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Drops the views that cannot be replaced, dependent views first.
    pub async fn drop_views(&self, tx: &mut Tx) -> Result<(), Error> {
        for view in recreated(&self.0).collect::<Vec<_>>().into_iter().rev() {
            let kind = if view.materialized { "materialized view" } else { "view" };
            view.run(tx, &format!("drop {kind} {}", view.name)).await?;
        }
        Ok(())
    }

    /// Recreates all views on the relation that has the name now. A materialized view is created empty
    /// and then refreshed, because the server runs a refresh as the view's owner. Another role wrote the
    /// query, and the service's role may have more rights.
    pub async fn recreate(&self, tx: &mut Tx) -> Result<(), Error> {
        query(tx, CLEAR_SEARCH_PATH).await?;
        for view in &self.0 {
            view.run(tx, &view.create).await?;
            for statement in &view.belongings {
                view.run(tx, statement).await?;
            }
            if view.is_populated {
                let refresh = format!("refresh materialized view {}", view.name);
                view.run(tx, &refresh).await?;
            }
        }
        Ok(())
    }
}

impl DependentView {
    async fn run(&self, tx: &mut Tx, statement: &str) -> Result<(), Error> {
        // Safe: PostgreSQL generated the statement for its own objects, with quoted names.
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **tx).await;
        done.map(drop).map_err(|source| Error::DependentView { view: self.name.clone(), source })
    }
}

fn recreated(views: &[DependentView]) -> impl Iterator<Item = &DependentView> {
    views.iter().filter(|view| view.level > 0)
}

/// Copies the grants on one relation to another relation. The owner of the first relation also receives
/// the right to read the other.
pub async fn copy_grants(tx: &mut Tx, schema: &Schema, from: &str, to: &str) -> Result<(), Error> {
    const OWNER: &str = "select format('grant select on %%s to %s', relowner::regrole)
                           from pg_class where oid = $1::regclass";
    let (from, to) = (format!("{}.{from}", schema.name()), format!("{}.{to}", schema.name()));
    let mut grants = texts(tx, OWNER, &from).await?;
    grants.extend(texts(tx, SELECT_GRANTS, &from).await?);
    for grant in grants {
        let statement = grant.replace("%s", &to);
        let done = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **tx).await;
        done.map_err(Error::at("grant other roles the right to read the summaries"))?;
    }
    Ok(())
}

async fn query(tx: &mut Tx, sql: &'static str) -> Result<(), Error> {
    let done = sqlx::query(sql).execute(&mut **tx).await;
    done.map(drop).map_err(Error::at("clear the search path"))
}

/// Returns the strings that a query selects for a relation.
async fn texts(tx: &mut Tx, sql: &'static str, relation: &str) -> Result<Vec<String>, Error> {
    sqlx::query_scalar(sql)
        .bind(relation)
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("read the owner, indexes, comments and grants of a view"))
}
