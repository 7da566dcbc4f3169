# shellcheck shell=bash disable=SC2154 # dev/prove sets run, pids, tenant and the rest
# The faults of `dev/prove soak`: one after the other, at random. dev/prove sources this file.

thaw_at=() # per instance: the end of a freeze, in seconds of this script; empty while it runs

report_event() { report "$(date +%T) $*"; }

kill_and_start() { # instance
    report_event "kill -9 of instance $1${thaw_at[$1]:+, which is frozen}"
    kill_service "$1"
    thaw_at[$1]=
    start_service "$1" && await_service "$1"
}
freeze() { # instance
    local seconds=$((5 + RANDOM % 56))
    [[ -z ${thaw_at[$1]:-} ]] || return 0
    report_event "instance $1 freezes for $seconds s"
    kill -STOP "${pids[$1]}"
    thaw_at[$1]=$((SECONDS + seconds))
}
thaw() { # instance
    report_event "instance $1 resumes"
    kill -CONT "${pids[$1]}"
    thaw_at[$1]=
}
restart_engine() { # engine
    local seconds=$((RANDOM % 16))
    report_event "$1 stops for $seconds s"
    "$here/engine" stop "$1" 2>>"$run/engines.log"
    sleep "$seconds"
    "$here/engine" start "$1" 2>>"$run/engines.log"
    report_event "$1 runs again"
}
cut_connections() {
    local cut
    cut=$(postgres_sql "$DB_DATABASE" "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where datname = current_database() and application_name like 'mod-patron-blocks%'") || cut=no
    report_event "$cut connections to the database are terminated"
}

# Draws every fault by number, so that a seed repeats the same story: of eight numbers two are kills and two
# are freezes. All values are drawn before the fault, even if the fault does not use them.
inject_fault() {
    local number=$((RANDOM % 8)) instance=$((RANDOM % instances))
    case $number in
    0 | 1) kill_and_start "$instance" ;;
    2 | 3) freeze "$instance" ;;
    4) restart_engine kafka ;;
    5) restart_engine postgres ;;
    *) cut_connections ;;
    esac
}

soak() {
    local seed=${SOAK_SEED:-$((EPOCHSECONDS % 32768))} next=0 faults=0 number
    report "SOAK_SEED=$seed, $minutes minutes, ${KAFKA_GROUP_PROTOCOL:-classic} protocol, logs in $run"
    RANDOM=$seed
    while kill -0 "$play" 2>/dev/null; do
        for number in "${!pids[@]}"; do
            runs "$number" || fail_with_log "instance $number exited unexpectedly" "$run/service$number.log"
            [[ -z ${thaw_at[number]:-} ]] || ((SECONDS < thaw_at[number])) || thaw "$number"
        done
        if ((SECONDS >= next)); then
            inject_fault
            faults=$((faults + 1)) next=$((SECONDS + 3 + RANDOM % 8))
        fi
        sleep 0.5
    done
    for number in "${!pids[@]}"; do [[ -z ${thaw_at[number]:-} ]] || thaw "$number"; done
    report_event "the days are over; $faults faults were injected"
}

# No fault of this story loses a record or moves the group, so no incident is expected.
report_incidents() {
    local counts
    counts=$(postgres_sql "$DB_DATABASE" "select kind || ' ' || count(*) from mod_patron_blocks.incident
        where resolved_at is null and tenant = '$tenant' group by kind order by kind")
    report "open incidents: ${counts:-none}"
    [[ -z $counts ]] || die "records were lost or read again for no reason: see above"
    counts=$(postgres_sql "$DB_DATABASE" "select reason || ' ' || count(*)
        from ${tenant}_mod_patron_blocks.dead_letter group by reason order by reason")
    report "dead letters: ${counts:-none}"
}
