# shellcheck shell=bash disable=SC2154 # lib.sh and kafka.sh set root, state, as, java and jars
# A cluster of three real brokers: create, start, kill, move leaders. Sourced after kafka.sh.

brokers=(1 2 3)

# The folder of the files that root writes for a broker; the data is in the folder of the engine's user.
broker_folder() { echo "$base/cluster-$1"; }                        # broker
broker_runs() { kafka_is_running "$(broker_folder "$1")"; }          # broker
broker_port() { known_port "cluster-$1"; }                           # broker
broker_count() { kafka_brokers 127.0.0.1 "$(broker_port "$1")"; }    # broker; prints the number of brokers it knows

running_brokers() {
    local broker
    for broker in "${brokers[@]}"; do
        if broker_runs "$broker"; then echo "$broker"; fi
    done
}
count_running() { running_brokers | wc -l; }

# Sets the paths, for commands that start nothing.
cluster_find() { # sets folder, base, as, jars and java
    engine_folder cluster
    base=${folder%/cluster}
    kafka_jars_folder "$base"
    find_java || true
}
cluster_install() {
    kafka_install
    find_eatmydata || true
    kafka_jars
}

# The ports are constant while one broker runs, because the other brokers know it by its ports.
cluster_ports() {
    local broker port
    [[ -z $(running_brokers) ]] || return 0
    for broker in "${brokers[@]}"; do
        pick_port "cluster-$broker"
        pick_port "cluster-$broker-controller"
    done
}

broker_write_properties() { # file, data folder, broker
    local broker voters="" port
    port=$(broker_port "$3")
    for broker in "${brokers[@]}"; do
        voters+=${voters:+,}$broker@127.0.0.1:$(known_port "cluster-$broker-controller")
    done
    {
        cat "$root/dev/kafka/server.properties" "$root/dev/kafka/cluster.properties"
        echo "node.id=$3"
        echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$(known_port "cluster-$3-controller")"
        echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
        echo "controller.quorum.voters=$voters"
        echo "log.dirs=$2"
    } >"$1"
}
broker_format() { # broker
    local home=$folder/$1 own
    own=$(broker_folder "$1")
    "${as[@]}" mkdir -p "$home"
    rm -rf "$home/data.new" # left by a killed run
    broker_write_properties "$own/format.properties" "$home/data.new" "$1"
    [[ -s $state/cluster.id ]] || kafka_new_id >"$state/cluster.id"
    kafka_format "$own/format.properties" "$(<"$state/cluster.id")"
    mv "$home/data.new" "$home/data"
}
broker_launch() { # broker
    local home=$folder/$1 own
    own=$(broker_folder "$1")
    mkdir -p "$own"
    [[ -s $home/data/meta.properties ]] || broker_format "$1"
    broker_write_properties "$own/kafka.properties" "$home/data" "$1"
    cp "$root/dev/kafka/log4j2.xml" "$own/kafka-log4j2.xml"
    report "starting broker $1 on port $(broker_port "$1")"
    (kafka_launch "$home" "$own" 300) &
}

# Waits until a broker knows all running brokers: then the controllers have registered it.
await_broker() { # broker
    local deadline=$((SECONDS + 120)) own
    own=$(broker_folder "$1")
    until (($(broker_count "$1" || echo 0) >= $(count_running))); do
        ((SECONDS < deadline)) || fail_with_log "broker $1 does not become ready" "$own/kafka.out" "$folder/$1/log/server.log"
        sleep 0.2
        broker_runs "$1" || sleep 1 # the shell's process id is known shortly before the broker's command line
        broker_runs "$1" || fail_with_log "broker $1 exited" "$own/kafka.out" "$folder/$1/log/server.log"
    done
}
broker_start() { # broker
    [[ -n $(running_brokers) ]] || die "no broker runs: dev/cluster start starts all three"
    broker_runs "$1" || broker_launch "$1"
    await_broker "$1"
}
broker_stop() { # broker
    broker_runs "$1" || return 0
    report "stopping broker $1"
    # Without a majority of controllers, a broker waits minutes for a controlled shutdown.
    kafka_end "$(broker_folder "$1")" "$((($(count_running) > 1) ? 20 : 2))"
}
broker_kill() { # broker
    local own pid
    broker_runs "$1" || die "broker $1 does not run"
    own=$(broker_folder "$1")
    pid=$(<"$own/kafka.pid")
    report "killing broker $1"
    kill -KILL "$pid"
    ended_within 10 process_has "$pid" "$own/kafka.properties" || die "broker $1 does not stop"
}

cluster_start() {
    local broker
    cluster_install
    cluster_ports
    for broker in "${brokers[@]}"; do broker_runs "$broker" || broker_launch "$broker"; done
    for broker in "${brokers[@]}"; do await_broker "$broker"; done
}
cluster_stop() {
    local broker
    for broker in $(running_brokers); do broker_stop "$broker"; done
}
cluster_wipe() {
    local broker
    [[ -z $(running_brokers) ]] || die "brokers run: stop them first"
    for broker in "${brokers[@]}"; do rm -rf "${folder:?}/$broker" "$(broker_folder "$broker")"; done
    rm -f "$state/cluster.id"
}

# The list has all three brokers, so a client finds the cluster if one broker is unavailable. The service
# and the simulator join host and port with a colon.
cluster_env() {
    printf 'export KAFKA_HOST=127.0.0.1:%s,127.0.0.1:%s,127.0.0.1 KAFKA_PORT=%s REPLICATION_FACTOR=3\n' \
        "$(broker_port 1)" "$(broker_port 2)" "$(broker_port 3)"
}
cluster_servers() {
    local broker list=""
    for broker in "${brokers[@]}"; do list+=${list:+,}127.0.0.1:$(broker_port "$broker"); done
    echo "$list"
}

# Runs a tool of Kafka as Kafka's shell scripts do.
cluster_tool() { # class, arguments…
    local class=$1
    shift
    "$java" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j2.level=OFF -cp "$jars/*" \
        "org.apache.kafka.tools.$class" --bootstrap-server "$(cluster_servers)" "$@" </dev/null
}
cluster_topics() { cluster_tool TopicCommand "$@"; }

# Waits until each partition has three replicas in sync.
cluster_in_sync() {
    local deadline=$((SECONDS + 180)) behind
    while
        behind=$(cluster_topics --describe --under-replicated-partitions 2>&1) || behind+=" (no response)"
        [[ -n $behind ]]
    do
        ((SECONDS < deadline)) || die "replicas are not in sync: $behind"
        sleep 1
    done
}

# Makes the next replica of every partition its leader, which starts a new leader epoch. No record is
# copied: the replicas stay, in another order.
cluster_move_leaders() {
    local plan=$state/cluster-plan.json
    cluster_topics --describe | awk -F'\t' '
        BEGIN { printf "{\"version\":1,\"partitions\":[" }
        /Partition: / {
            for (i = 1; i <= NF; i++) {
                split($i, part, ": ")
                field[part[1]] = part[2]
            }
            first = field["Replicas"]; rest = first
            sub(/,.*/, "", first); sub(/^[0-9]+,?/, "", rest)
            printf "%s{\"topic\":\"%s\",\"partition\":%s,\"replicas\":[%s]}", comma, field["Topic"], field["Partition"],
                rest == "" ? first : rest "," first
            comma = ","
        }
        END { print "]}" }' >"$plan"
    cluster_tool reassign.ReassignPartitionsCommand --reassignment-json-file "$plan" --execute >"$state/cluster-move.log" 2>&1 &&
        cluster_tool LeaderElectionCommand --election-type preferred --path-to-json-file "$plan" >>"$state/cluster-move.log" 2>&1 ||
        fail_with_log "leaders cannot be moved" "$state/cluster-move.log"
}
