//! Views of other modules on the Java module's tables: the switch moves each view or names it.

use std::collections::BTreeSet;

use patron_blocks::{
    config::Login, services::tenant_lifecycle::java_switch, store::state::patrons,
};
use uuid::Uuid;

use super::{catalogue, query_scalar, run_migration, tenant, with_java};
use crate::support::{
    java::{self, Layout, Patron},
    payloads::now,
    story_database::pool,
};

#[tokio::test]
async fn dependent_views_survive_the_migration_and_return() {
    with_java(Layout::Late, async |_, db, schema| {
        java::fill(db, schema, 30).await;
        java::create_report_views(db, schema).await;
        let before = catalogue(db, schema).await;
        let rows: i64 = query_scalar(db, schema, "select count(*) from {schema}.user_summary").await;
        let loans = "select sum(loans) from northlib_mod_fqm_manager.\"Patrons\"";
        let loans_before: i64 = query_scalar(db, schema, loans).await;

        for _ in 0..2 {
            run_migration(db, schema).await.unwrap();
            let view =
                "select relkind = 'v' from pg_class where oid = '{schema}.user_summary'::regclass";
            assert!(query_scalar::<bool>(db, schema, view).await);
            java::execute_sql(db, schema, "refresh materialized view northlib_mod_fqm_manager.cached").await;
            assert_eq!(query_scalar::<i64>(db, schema, loans).await, loans_before);
            let summaries = "select summaries from northlib_mod_fqm_manager.on_cached";
            assert_eq!(query_scalar::<i64>(db, schema, summaries).await, rows);
            let reports = |name: &'static str| move |row: &&String| row.contains(name);
            let after = catalogue(db, schema).await;
            let of_reports = |all: &BTreeSet<String>| -> BTreeSet<String> {
                all.iter().filter(reports("northlib_mod_fqm_manager")).cloned().collect()
            };
            assert_eq!(
                of_reports(&after),
                of_reports(&before),
                "owners, grants, comments, indexes"
            );
            let may = "begin; set local role story_reports;
                       select jsonb from northlib_mod_fqm_manager.summaries; rollback";
            java::execute_sql(db, schema, may).await;

            let given = java_switch::return_to_java(db, &tenant(), "mod-patron-blocks-2.0.0", now()).await;
            assert_eq!(given.unwrap(), u64::try_from(rows).unwrap());
            let back = catalogue(db, schema).await;
            assert_eq!(back.difference(&before).collect::<Vec<_>>(), [""; 0]);
            assert_eq!(before.difference(&back).collect::<Vec<_>>(), [""; 0]);
            java::execute_sql(db, schema, "refresh materialized view northlib_mod_fqm_manager.cached").await;
            assert_eq!(query_scalar::<i64>(db, schema, loans).await, loans_before);
            assert_eq!(query_scalar::<i64>(db, schema, summaries).await, rows);
            let write =
                "update {schema}.user_summary set jsonb = jsonb || '{\"openFeesFines\": []}'
                          where id = (select id from {schema}.user_summary where jsonb -> 'openLoans' <> '[]' limit 1)";
            java::execute_sql(db, schema, write).await;
        }
        let again = java_switch::return_to_java(db, &tenant(), "mod-patron-blocks-2.0.0", now()).await;
        assert!(again.unwrap_err().to_string().contains("were already given back"));
    })
    .await;
}

#[tokio::test]
async fn materialized_view_is_refreshed_as_its_owner() {
    with_java(Layout::Late, async |_, db, schema| {
        java::fill(db, schema, 10).await;
        java::create_report_views(db, schema).await;
        // The view contains the name of its last refresher, and so does an index on a function.
        let made = "create materialized view northlib_mod_fqm_manager.who as
              select s.id, current_user::text as who from {schema}.user_summary s;
            create function northlib_mod_fqm_manager.me(text) returns text immutable language sql
              as 'select current_user::text';
            create index who_me on northlib_mod_fqm_manager.who (northlib_mod_fqm_manager.me(who));
            create materialized view northlib_mod_fqm_manager.empty as
              select id from {schema}.user_summary with no data;
            create materialized view northlib_mod_fqm_manager.on_who as
              select who, current_user::text as again from northlib_mod_fqm_manager.who;
            alter materialized view northlib_mod_fqm_manager.who owner to story_reports;
            alter materialized view northlib_mod_fqm_manager.empty owner to story_reports;
            alter materialized view northlib_mod_fqm_manager.on_who owner to story_reports;
            refresh materialized view northlib_mod_fqm_manager.who;
            refresh materialized view northlib_mod_fqm_manager.on_who";
        java::execute_sql(db, schema, made).await;
        let before = catalogue(db, schema).await;
        for back in [false, true] {
            if back {
                java_switch::return_to_java(db, &tenant(), "mod-patron-blocks-2.0.0", now()).await.unwrap();
                assert_eq!(catalogue(db, schema).await, before);
            } else {
                run_migration(db, schema).await.unwrap();
            }
            let who = "select array_agg(distinct who) || array_agg(distinct again)
                         from northlib_mod_fqm_manager.on_who";
            assert_eq!(query_scalar::<Vec<String>>(db, schema, who).await, ["story_reports"; 2], "{back}");
            let populated = "select relispopulated from pg_class where oid = 'northlib_mod_fqm_manager.empty'::regclass";
            assert!(!query_scalar::<bool>(db, schema, populated).await, "the view had no rows before");
        }
    })
    .await;
}

#[tokio::test]
async fn unsupported_dependents_are_named_and_nothing_changes() {
    with_java(Layout::Early, async |_, db, schema| {
        java::fill(db, schema, 10).await;
        let before = catalogue(db, schema).await;
        for (made, named, undone) in [
            (
                "create function public.newest() returns setof {schema}.user_summary language sql
                 as 'select * from {schema}.user_summary'",
                "function public.newest()",
                "drop function public.newest",
            ),
            (
                "create table public.favourite (id uuid references {schema}.user_summary)",
                "constraint favourite_id_fkey on table public.favourite",
                "drop table public.favourite",
            ),
            (
                "create view public.counted as select id, jsonb, count(*) from {schema}.user_summary group by id",
                "public.counted",
                "drop view public.counted",
            ),
            (
                "create materialized view public.cached as select id from {schema}.user_summary;
                 create statistics public.more on id, (id::text) from public.cached",
                "public.cached",
                "drop materialized view public.cached",
            ),
        ] {
            java::execute_sql(db, schema, made).await;
            let error = run_migration(db, schema).await.unwrap_err();
            let message = patron_blocks::logging::ErrorChain(&error).to_string();
            assert!(message.contains(named) && message.contains("nothing was changed"), "{message}");
            java::execute_sql(db, schema, undone).await;
            assert_eq!(catalogue(db, schema).await, before);
        }
        run_migration(db, schema).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn missing_privileges_are_named_and_membership_suffices() {
    with_java(Layout::Late, async |login, db, schema| {
        java::fill(db, schema, 10).await;
        let role = format!("story_{}", Uuid::new_v4().simple());
        let own = "do $$ declare r regclass; begin
              for r in select oid from pg_class
                where relnamespace = '{schema}'::regnamespace and relkind = 'r' loop
                execute format('alter table %s owner to {schema}', r); end loop; end $$;";
        java::execute_sql(db, schema, own).await;
        java::execute_sql(
            db,
            schema,
            &format!(
                "create role {role} login password '{role}'; grant create on database {} to {role}",
                login.database
            ),
        )
        .await;
        let module_db =
            pool(&Login { username: role.clone(), password: role.clone(), ..login.clone() });
        java::execute_sql(
            db,
            schema,
            &format!(
                "grant usage on schema mod_patron_blocks to {role};
             grant all on all tables in schema mod_patron_blocks to {role}"
            ),
        )
        .await;
        let error = run_migration(&module_db, schema).await.unwrap_err().to_string();
        let name = schema.name();
        for missing in [
            format!("USAGE and CREATE on schema {name}"),
            format!("own table {name}.user_summary, or be a member of role {name}"),
            format!("SELECT on table {name}.item_checked_out_event"),
        ] {
            assert!(error.contains(&missing), "{error}");
        }
        java::execute_sql(db, schema, &format!("grant {name} to {role}")).await;
        run_migration(&module_db, schema).await.unwrap();
        assert!(
            patrons::load_summary(&module_db, schema, Patron(1).user()).await.unwrap().is_some()
        );
        module_db.close().await;
        java::execute_sql(db, schema, &format!("drop owned by {role}; drop role {role}")).await;
    })
    .await;
}
