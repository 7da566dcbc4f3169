# shellcheck shell=bash disable=SC2154 # lib.sh sets root, state and as
# The PostgreSQL of the development environment: find or install, create, start, stop. Sourced after lib.sh.

postgres_role=patron_blocks # superuser: tests create databases
oldest_postgres=14

# Finds the programs of the release that created the data, else of the newest installed release.
find_postgres() { # folder; sets bin
    local created_by=0 candidate version best=0
    [[ -s $1/data/PG_VERSION ]] && created_by=$(<"$1/data/PG_VERSION")
    bin=
    for candidate in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin "$(dirname "$(type -P postgres || echo /none/x)")"; do
        [[ -x $candidate/initdb && -x $candidate/pg_ctl && -x $candidate/psql ]] || continue
        version=$("$candidate/postgres" --version)
        version=${version##*PostgreSQL) }
        version=${version%%[!0-9]*}
        ((version >= oldest_postgres)) || continue
        if ((version == created_by || (created_by == 0 && version > best))); then
            bin=$candidate best=$version
        fi
    done
    [[ -n $bin ]]
}

postgres_is_running() { # folder
    local pid
    { read -r pid <"$1/data/postmaster.pid"; } 2>/dev/null || return 1
    process_has "$pid" "$1/data"
}
postgres_has_processes() { # folder; also backends that outlived a killed postmaster
    local process
    for process in /proc/[0-9]*; do
        [[ $process/cwd -ef $1/data && $(cat "$process/comm" 2>/dev/null) == postgres ]] && return 0
    done
    return 1
}
# Returns true as soon as the server accepts connections, and false if the server does not run or ends
# meanwhile.
postgres_is_ready() { # folder
    local -a lines
    local deadline=$((SECONDS + 120))
    while postgres_is_running "$1"; do
        # The eighth line of the pid file is the state of the server.
        { mapfile -t lines <"$1/data/postmaster.pid"; } 2>/dev/null || continue
        [[ ${lines[7]:-} != ready* ]] || return 0
        ((SECONDS < deadline)) || fail_with_log "PostgreSQL does not become ready" "$1/log"
        sleep 0.05
    done
    return 1
}

postgres_listens() { port_busy "$port"; }

postgres_create_data() { # folder
    local new=$1/data.new
    report "creating a PostgreSQL data folder"
    rm -rf "$new" # left by a killed run
    [[ -s $1/password ]] || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' | "${as[@]}" tee "$1/password" >/dev/null
    (cd / && "${as[@]}" "$bin/initdb" -D "$new" -U "$postgres_role" --pwfile="$1/password" \
        --auth=scram-sha-256 --encoding=UTF8 --no-locale) >"$state/postgres.log" 2>&1 </dev/null ||
        fail_with_log "initdb failed" "$state/postgres.log"
    mv "$new" "$1/data"
}

# The server has no Unix socket: the path below a deep folder can be too long, and TCP on the loopback
# address is enough. Durability stays on, so that test results are valid elsewhere.
postgres_options() {
    printf -- '-c %s ' listen_addresses=127.0.0.1 "port=$port" unix_socket_directories= timezone=UTC \
        max_connections=400 shared_buffers=256MB max_wal_size=4GB log_min_duration_statement=2s ssl=on
}

postgres_start() {
    local folder bin port log
    engine_folder postgres
    postgres_is_ready "$folder" && return
    docker_has postgres && return
    docker_start postgres postgres_listens && return
    rm -f "$state/postgres.docker"

    if ! find_postgres "$folder"; then
        [[ ! -s $folder/data/PG_VERSION ]] ||
            die "PostgreSQL $(<"$folder/data/PG_VERSION") created the data in $folder and is no longer installed: dev/down --wipe deletes the data"
        install_postgres
        find_postgres "$folder" || die "PostgreSQL $oldest_postgres or newer is missing: install it, then run this command again"
        engine_folder postgres # the package created the user that owns the folder
    fi
    [[ -s $folder/data/PG_VERSION ]] || postgres_create_data "$folder"
    make_certificate "$folder/data/server.key" "$folder/data/server.crt"

    # After a kill -9 the old backends need a moment to end. Then the pid file is obsolete; PostgreSQL would
    # trust it if its process id belongs to another process by now.
    ended_within 10 postgres_has_processes "$folder" || die "old PostgreSQL processes still use $folder"
    rm -f "$folder/data/postmaster.pid"

    log=$folder/log
    [[ $(stat -c %s "$log" 2>/dev/null || echo 0) -lt 10000000 ]] || mv "$log" "$log.old"
    for _ in 1 2 3; do
        pick_port postgres
        report "starting PostgreSQL on port $port"
        # --wait ends when the pid file reports a ready server, or when the server has ended.
        (detach && "${as[@]}" "$bin/pg_ctl" start -D "$folder/data" -l "$log" --wait -t 120 -o "$(postgres_options)") && return
        port_busy "$port" || break # another process has the port: try another one
    done
    fail_with_log "PostgreSQL does not start" "$log"
}

# Prevents Debian's package from creating and starting its own server on port 5432.
install_postgres() {
    local config=/etc/postgresql-common fresh="" failed=""
    if [[ ! -e $config ]] && as_root mkdir -p "$config/createcluster.d" 2>/dev/null; then
        fresh=$config/createcluster.d/no-main-cluster.conf
        echo "create_main_cluster = false" | as_root tee "$fresh" >/dev/null
    fi
    (install_packages PostgreSQL postgresql) || failed=yes
    [[ -z $fresh ]] || as_root rm -f "$fresh"
    [[ -z $failed ]] || exit 1
}

postgres_stop() {
    local folder pid
    if [[ -e $state/postgres.docker ]]; then compose stop postgres &>/dev/null || true; fi
    [[ -s $state/postgres.place ]] || return 0
    folder=$(<"$state/postgres.place")/postgres
    postgres_is_running "$folder" || return 0
    read -r pid <"$folder/data/postmaster.pid"
    report "stopping PostgreSQL"
    kill -INT "$pid" # fast shutdown: ends sessions, leaves a clean data folder
    ended_within 10 process_has "$pid" "$folder/data" && return
    kill -QUIT "$pid"
    ended_within 5 process_has "$pid" "$folder/data" || kill -KILL "$pid"
}

# Creates a tablespace in memory for the databases of stories. Each story creates and drops a database with some hundred
# files, and some file systems need long for that. The write-ahead log stays on the disk.
memory=/dev/shm/$clone_name
memory_least_mib=1024
postgres_tablespace() { # sets tablespace
    local name=stories place left
    local -a as
    tablespace=
    [[ ! -e $state/postgres.docker && $(stat -f -c %T /dev/shm 2>/dev/null) == tmpfs ]] || return 1
    (($(df --output=avail -B1M /dev/shm | tail -n 1) >= memory_least_mib)) || return 1
    run_as "$(stat -c %U "$(<"$state/postgres.place")/postgres/data")"
    place=$(postgres_sql postgres "select pg_tablespace_location(oid) from pg_tablespace where spcname = '$name'")
    if [[ -n $place ]] && ! "${as[@]}" test -O "$place" -a -n "$(ls -A "$place" 2>/dev/null)"; then
        # The machine was restarted, and the memory is empty.
        for left in $(postgres_sql postgres "select datname from pg_database join pg_tablespace t on t.oid = dattablespace
                                              where spcname = '$name'"); do
            postgres_sql postgres "drop database \"$left\"" || return 1
        done
        postgres_sql postgres "drop tablespace $name" || return 1
        place=
    fi
    if [[ -z $place ]]; then
        rm -rf "$memory"
        "${as[@]}" mkdir -m 700 "$memory" || return 1
        postgres_sql postgres "create tablespace $name location '$memory'" || return 1
    fi
    tablespace=$name
}

# Runs SQL on the server of DB_HOST and DB_PORT. Uses the psql of the local engine if there is one.
postgres_sql() { # database, SQL
    local bin
    local -a command=(psql)
    if [[ $DB_HOST == 127.0.0.1 && $DB_PORT == "$(known_port postgres)" ]]; then
        if [[ -e $state/postgres.docker ]]; then
            compose exec -T postgres psql -U "$DB_USERNAME" -d "$1" -XAtqc "$2" </dev/null
            return
        fi
        find_postgres "$(<"$state/postgres.place")/postgres" && command=("$bin/psql")
    fi
    PGPASSWORD=$DB_PASSWORD PGCONNECT_TIMEOUT=5 "${command[@]}" -h "$DB_HOST" -p "$DB_PORT" -U "$DB_USERNAME" \
        -d "$1" -XAtqc "$2" </dev/null
}
