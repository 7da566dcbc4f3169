# shellcheck shell=bash disable=SC2154 # dev/prove sets run, pids, tenant and the rest
# The events of `dev/prove cluster`: brokers restart and die, leaders move, a topic is recreated, and a
# newer version replaces an instance of the service. dev/prove sources this file.

recreated=() # topic names, one entry per recreation

# Builds the next version of the service for the rollout: this tree with one more tenant migration and
# another version number. The build uses a copy below target/; unchanged files are not built again.
newer_version=9.9.9
build_newer() { # arguments for cargo…
    local tree=$root/target/newer/tree step
    mkdir -p "$tree"
    find "$tree" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
    tar -C "$root" --exclude=./target --exclude=./.dev --exclude=./.git --exclude=./fuzz/target -cf - . | tar -C "$tree" -xf -
    step=$tree/migrations/tenant/9999_next_release.sql
    cat >"$step" <<'SQL'
-- One more column, as a next release may bring it. Nothing reads it yet.
alter table patron add column next_release text;
SQL
    touch -r "$root/Cargo.toml" "$step" # an old time: cargo rebuilds sources newer than their build
    sed -i "0,/^version = \".*\"/s//version = \"$newer_version\"/" "$tree/Cargo.toml"
    sed -i "/^name = \"mod-patron-blocks\"/{n;s/\".*\"/\"$newer_version\"/}" "$tree/Cargo.lock"
    cargo build --manifest-path "$tree/Cargo.toml" --locked --target-dir "${CARGO_TARGET_DIR:-$root/target}" --bin mod-patron-blocks "$@"
    mkdir -p "${newer%/*}"
    cp "$target/mod-patron-blocks" "$newer"
}

report_event() { report "$(date +%T) $*"; }
on_cluster() { "$here/cluster" "$@" 2>>"$run/cluster.log"; }
request_simulator() { # pause or resume
    curl -sf --max-time 90 -o /dev/null -X POST "http://127.0.0.1:$simulator_port/simulator/$1"
}

# Starts an empty cluster and stops it at the end, unless the cluster already ran.
start_cluster() {
    if [[ $("$here/cluster" status) != *running* ]]; then
        was_running=
        "$here/cluster" stop --wipe
    fi
    "$here/cluster" start
    # dev/up needs one broker to find Kafka running.
    eval "$("$here/cluster" env)"
    export KAFKA_HOST=127.0.0.1
}
was_running=yes
end_cluster() { [[ -n $was_running ]] || "$here/cluster" stop; }

# ---- events ------------------------------------------------------------------------------------

restart_broker() { # broker, seconds in between
    report_event "broker $1 stops for $2 s"
    on_cluster stop "$1"
    sleep "$2"
    on_cluster start "$1"
    on_cluster in-sync
}
roll_brokers() { # seconds in between
    local broker
    for broker in 1 2 3; do restart_broker "$broker" "$1"; done
}
kill_broker() { # broker, seconds in between
    report_event "kill -9 of broker $1, restart after $2 s"
    on_cluster kill "$1"
    sleep "$2"
    on_cluster start "$1"
    on_cluster in-sync
    report_event "broker $1 runs again"
}
move_leaders() {
    report_event "every partition gets another leader"
    on_cluster move-leaders
}

# Recreates a topic. Only records that the service has read before the deletion can count afterwards. So the
# simulator pauses, and every published record is settled. Then the topic is deleted and recreated.
recreate_topic() { # number, seconds in between
    local topics topic partitions records
    mapfile -t topics < <(on_cluster topics --list | grep "^$ENV\.$tenant\." | grep -v '\.patron-blocks\.')
    topic=${topics[$1 % ${#topics[@]}]}
    request_simulator pause || { kill -0 "$play" 2>/dev/null && die "the simulator does not pause"; return 0; }
    await_no_lag
    records=$(records_in "$topic")
    partitions=$(on_cluster topics --describe --topic "$topic" | sed -n 's/.*PartitionCount: \([0-9]*\).*/\1/p')
    report_event "$topic with $records records is deleted, and recreated after $2 s"
    on_cluster topics --delete --topic "$topic"
    ended_within 30 topic_exists "$topic" || die "$topic is not deleted"
    sleep "$2"
    on_cluster topics --create --topic "$topic" --partitions "$partitions" --config retention.ms=-1 >>"$run/cluster.log"
    recreated+=("$topic")
    request_simulator resume
    ((records == 0)) || await_incident "$topic"
}
records_in() { # topic; prints the number of records
    on_cluster group "$ENV.cg.patron-blocks" | awk -v topic="$1" '$2 == topic { sum += $5 } END { print sum + 0 }'
}
topic_exists() { [[ $(on_cluster topics --list) == *$1* ]]; }

replace() { # instance
    local program=$newer name="the newer version"
    if [[ ${programs[$1]} == "$newer" ]]; then program=$target/mod-patron-blocks name="the current version"; fi
    report_event "instance $1 stops, and $name replaces it"
    record_memory "$1"
    kill -TERM "${pids[$1]}"
    ended_within 30 runs "$1" || die "instance $1 does not stop"
    wait "${pids[$1]}" || fail_with_log "instance $1 exited with an error" "$run/service$1.log"
    programs[$1]=$program
    start_service "$1" && await_service "$1"
    [[ $program != "$newer" ]] || upgrade "$1"
}
# Enables the tenant for the newer version, like Okapi after the rollout. If a busy service refuses, the
# call is repeated.
upgrade() { # instance
    local port=${ports[$1]} from job="" body="" deadline=$((SECONDS + 60))
    from=$("$target/mod-patron-blocks" --version)
    until job=$(curl -sf --max-time 60 -D - -o "$run/upgrade.log" -X POST "http://127.0.0.1:$port/_/tenant" \
        -H "X-Okapi-Tenant: $tenant" -H 'Content-Type: application/json' \
        -d "{\"module_from\":\"${from/ /-}\",\"module_to\":\"mod-patron-blocks-$newer_version\"}"); do
        report_event "the service rejects the upgrade: ${job%%[[:cntrl:]]*}"
        ((SECONDS < deadline)) || die "the newer version does not accept the tenant"
        sleep 1
    done
    job=$(sed -n 's/^location: *\([^[:space:]]*\).*/\1/Ip' <<<"$job")
    for _ in {1..120}; do
        body=$(curl -sf --max-time 10 -H "X-Okapi-Tenant: $tenant" "http://127.0.0.1:$port$job") || body=""
        [[ ! $body =~ \"complete\":\ *true ]] || break
        sleep 0.5
    done
    [[ $body =~ \"complete\":\ *true && ! $body =~ \"error\" ]] || die "the tenant is not upgraded: $body"
    [[ $(postgres_sql "$DB_DATABASE" "select count(*) from ${tenant}_mod_patron_blocks._sqlx_migrations where version = 9999") == 1 ]] ||
        die "the newer version has not migrated the tenant"
}

# ---- checks ------------------------------------------------------------------------------------

# Returns the lag: every published record is settled within two minutes. Kafka's own tool prints the ends of
# the logs, and the database has the positions. The group offset is unsuitable: a client never commits an
# offset below an earlier commit. So the offset stays past the end of a recreated log until the log has
# grown.
lag() { # prints the number of the tenant's unsettled records
    postgres_sql "$DB_DATABASE" "select topic, partition, next_offset
        from ${tenant}_mod_patron_blocks.ingest_position" >"$run/positions" || return 1
    on_cluster group "$ENV.cg.patron-blocks" | awk -v prefix="$ENV.$tenant." -v positions="$run/positions" '
        BEGIN { while ((getline line <positions) > 0) { split(line, part, "|"); settled[part[1], part[2]] = part[3] } }
        index($2, prefix) == 1 { seen++; left = $5 - settled[$2, $3]; if (left > 0) lag += left }
        END { if (!seen) exit 1; print lag + 0 }'
}
await_no_lag() {
    local deadline=$((SECONDS + 120)) left
    until left=$(lag) && ((left == 0)); do
        if ((SECONDS >= deadline)); then
            on_cluster group "$ENV.cg.patron-blocks" >&2
            die "stalled: ${left:-unknown} records are not settled after two minutes"
        fi
        sleep 1
    done
}

open_incidents() { # prints id, kind and topic of each
    postgres_sql "$DB_DATABASE" "select incident_id, kind, topic from mod_patron_blocks.incident
        where resolved_at is null and tenant = '$tenant'"
}
# Waits until the service has raised an incident for the recreated topic.
await_incident() { # topic
    local deadline=$((SECONDS + 120))
    until open_incidents | grep -qF "|topic_recreated|$1"; do
        ((SECONDS < deadline)) || die "no incident reports that $1 was recreated"
        sleep 1
    done
    resolve_expected
}
# Resolves the expected incidents of a recreated topic and dies at any other incident. The expected
# incidents include the stalled partition, because the client stops reading a recreated topic.
resolve_expected() {
    local id kind topic
    while IFS='|' read -r id kind topic; do
        [[ $kind =~ ^(topic_recreated|partition_stalled)$ && " ${recreated[*]} " == *" $topic "* ]] || die "an unexpected incident: $kind of $topic"
        "$target/mod-patron-blocks" incidents --tenant "$tenant" resolve "$id" >>"$run/incidents.log" 2>&1 ||
            fail_with_log "an incident cannot be resolved" "$run/incidents.log"
    done < <(open_incidents)
}
# Checks that the service raised at most one incident per recreation and partition, and no other incident.
check_incidents() {
    local topic times too_many
    resolve_expected
    [[ -z $(open_incidents) ]] || die "an incident is still open"
    for topic in $(printf '%s\n' "${recreated[@]}" | sort -u); do
        times=$(printf '%s\n' "${recreated[@]}" | grep -cFx "$topic")
        too_many=$(postgres_sql "$DB_DATABASE" "select partition || ': ' || count(*) from mod_patron_blocks.incident
            where tenant = '$tenant' and topic = '$topic' and kind = 'topic_recreated' group by partition having count(*) > $times")
        [[ -z $too_many ]] || die "$topic was recreated $times times, but has more incidents: $too_many"
    done
    report "incidents: $(postgres_sql "$DB_DATABASE" "select kind || ' ' || count(*) from mod_patron_blocks.incident
        where tenant = '$tenant' group by kind order by kind" | tr '\n' ' ')for ${#recreated[@]} recreated topics, all resolved"
    report "dead letters: $(postgres_sql "$DB_DATABASE" "select count(*) from ${tenant}_mod_patron_blocks.dead_letter")"
}

# ---- the story ---------------------------------------------------------------------------------

# The first round has each event once, so a short story has all events. Each later round has them in another
# order. All values are drawn before an event, even if the event does not use them.
kinds=(roll kill move recreate recreate-at-once replace)
draw_round() { # sets round
    local i j swap
    round=("${kinds[@]}" move kill)
    for ((i = ${#round[@]} - 1; i > 0; i--)); do
        j=$((RANDOM % (i + 1)))
        swap=${round[i]} round[i]=${round[j]} round[j]=$swap
    done
}
run_event() { # kind
    local broker=$((1 + RANDOM % 3)) away=$((RANDOM % 16)) instance=$((RANDOM % instances)) number=$RANDOM long=$((RANDOM % 40))
    case $1 in
    roll) roll_brokers "$((away % 6))" ;;
    kill) kill_broker "$broker" "$away" ;;
    move) move_leaders ;;
    recreate) recreate_topic "$number" "$long" ;;
    recreate-at-once) recreate_topic "$number" 0 ;;
    replace) replace "$instance" ;;
    esac
}
cluster_story() {
    local number kind pause round=() missing=""
    local -A times=()
    report "CLUSTER_SEED=$seed, $minutes minutes, ${KAFKA_GROUP_PROTOCOL:-classic} protocol, logs in $run"
    RANDOM=$seed
    sleep 30 # until noon: each topic has records that its deletion would lose
    while kill -0 "$play" 2>/dev/null; do
        [[ ${#round[@]} -gt 0 ]] || draw_round
        kind=${round[0]} round=("${round[@]:1}") pause=$((2 + RANDOM % 5))
        run_event "$kind"
        times[$kind]=$((${times[$kind]:-0} + 1))
        for number in "${!pids[@]}"; do
            runs "$number" || fail_with_log "instance $number exited unexpectedly" "$run/service$number.log"
        done
        sleep "$pause"
    done
    for kind in "${kinds[@]}"; do
        [[ -n ${times[$kind]:-} ]] || missing+=" $kind"
    done
    report_event "the days are over; $(for kind in "${!times[@]}"; do printf '%s %s, ' "$kind" "${times[$kind]}"; done)missing:${missing:- none}"
    # A short story is for experiments; a long story is a proof only if it has every event.
    [[ -z $missing ]] || ((minutes < 10)) || die "the days were too short for every event: set more minutes"
}
