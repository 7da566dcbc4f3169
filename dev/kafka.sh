# shellcheck shell=bash disable=SC2154 # lib.sh sets root, state and as
# The Kafka of the development environment: find or install, create, start, stop. Sourced after lib.sh.

find_java() { # 17 or newer, executable by the engine's user; sets java
    local candidate version
    for candidate in "${JAVA_HOME:-/none}/bin/java" "$(type -P java || echo /none)" /usr/lib/jvm/*/bin/java; do
        version=$(cd / && "${as[@]}" "$candidate" -version 2>&1) || continue
        version=${version#*version \"}
        version=${version%%[!0-9]*}
        if [[ -n $version ]] && ((version >= 17)); then
            java=$candidate
            return 0
        fi
    done
    return 1
}
# Checks all requirements together, so that a person sees one message about what to install.
kafka_install() {
    local what="" packages=()
    if ! find_java; then
        what="Java 17 or newer"
        packages+=(openjdk-21-jre-headless/openjdk-17-jre-headless/default-jre-headless)
    fi
    if [[ ! -d $jars ]] && ! command -v mvn >/dev/null; then
        what+=${what:+ and }Maven
        packages+=(maven)
    fi
    [[ -n $what ]] || return 0
    install_packages "$what" "${packages[@]}"
    find_java || die "Java 17 or newer is missing: install it, then run this command again"
}

# The folder of the jars is named after the pom, so another version of the pom means another folder.
kafka_jars_folder() { # base; sets jars
    jars=$1/kafka-jars-$(cksum <"$root/dev/kafka/pom.xml" | cut -d' ' -f1)
}
kafka_jars() {
    local new
    [[ -d $jars ]] && return
    report "fetching Kafka"
    new=$jars.new
    rm -rf "$new" # left by a killed run
    mvn -q -B -Dstyle.color=never -f "$root/dev/kafka/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$new" >"$state/maven.log" 2>&1 </dev/null ||
        fail_with_log "Maven cannot fetch Kafka" "$state/maven.log"
    mv "$new" "$jars"
}

# Kafka syncs several small files for every new partition, and tests create thousands of partitions. Without
# the syncs, Kafka takes half as long, and PostgreSQL, which still syncs, has the disk for itself. A
# kill -9 loses no data without them; only a power cut does. Without the library, everything works too.
find_eatmydata() { # sets preload
    for preload in /usr/lib/*/libeatmydata.so /usr/lib64/libeatmydata.so; do
        [[ -e $preload ]] && return
    done
    preload=
    return 1
}

kafka_is_running() { # base
    local pid
    { read -r pid <"$1/kafka.pid"; } 2>/dev/null || return 1
    process_has "$pid" "$1/kafka.properties"
}

# Prints the number of brokers of the cluster (a Metadata request, version 1, without topics). An open port
# is not enough: a broker listens before the controller has registered it, and lists no broker until then.
kafka_brokers() { # host, port; prints the number of brokers
    local response
    # shellcheck disable=SC2016 # the inner shell has the positions
    response=$(timeout 2 bash -c 'exec 3<>"/dev/tcp/$0/$1" &&
        printf "\x00\x00\x00\x0e\x00\x03\x00\x01\x00\x00\x00\x01\xff\xff\x00\x00\x00\x00" >&3 &&
        head -c 12 <&3 | od -An -v -tx1' "$1" "$2" 2>/dev/null) || return 1
    response=${response//[[:space:]]/}
    [[ ${#response} == 24 ]] || return 1
    echo $((16#${response:16:8}))
}
kafka_responds() { # host, port
    local brokers
    brokers=$(kafka_brokers "$1" "$2") && ((brokers > 0))
}

kafka_is_ready() { kafka_responds 127.0.0.1 "$port"; }

kafka_write_properties() { # file, data folder, key and certificate
    {
        cat "$root/dev/kafka/server.properties"
        echo "listeners=PLAINTEXT://127.0.0.1:$port,SECURE://127.0.0.1:$secure_port,CONTROLLER://127.0.0.1:$controller_port"
        echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port,SECURE://127.0.0.1:$secure_port"
        echo "listener.name.secure.ssl.keystore.location=$3"
        echo "controller.quorum.voters=1@127.0.0.1:$controller_port"
        echo "log.dirs=$2"
    } >"$1"
}
kafka_create_data() { # folder, base
    local new=$1/data.new properties=$2/kafka-format.properties
    report "creating a Kafka data folder"
    rm -rf "$new" # left by a killed run
    kafka_write_properties "$properties" "$new" "$1/secure.pem"
    kafka_format "$properties" "$(kafka_new_id)"
    mv "$new" "$1/data"
}
kafka_new_id() {
    local id
    id=$(head -c 16 /dev/urandom | base64 | tr '+/' 'Aa')
    echo "${id:0:22}"
}
kafka_format() { # properties, the cluster's id
    (cd / && "${as[@]}" "$java" -cp "$jars/*" kafka.tools.StorageTool format -t "$2" -c "$1") \
        >"$state/kafka.log" 2>&1 </dev/null || fail_with_log "Kafka's data folder cannot be created" "$state/kafka.log"
}

# The shell writes its own process id and then becomes the broker, so the id of a running broker is always
# known.
kafka_launch() { # folder, base, heap in MiB
    detach
    echo "$BASHPID" >"$2/kafka.pid"
    exec >"$2/kafka.out" 2>&1 setsid "${as[@]}" env ${preload:+LD_PRELOAD="$preload"} "$java" -Xms128m -Xmx"$3"m -XX:+UseSerialGC \
        -XX:+ExitOnOutOfMemoryError -Dkafka.logs.dir="$1/log" \
        -Dlog4j2.configurationFile="$2/kafka-log4j2.xml" -cp "$jars/*" kafka.Kafka "$2/kafka.properties"
}

kafka_start() {
    local folder base java jars preload port controller_port secure_port pid
    engine_folder kafka
    base=${folder%/kafka}
    if ! kafka_is_running "$base"; then
        docker_has kafka && return
        docker_start kafka kafka_is_ready && return
        rm -f "$state/kafka.docker"
        kafka_jars_folder "$base"
        kafka_install
        if [[ ! -d $folder/data ]] && ! find_eatmydata; then
            (install_packages libeatmydata libeatmydata1) 2>/dev/null || true
        fi
        find_eatmydata || true
        kafka_jars
    fi

    make_certificate "$folder/secure.key" "$folder/secure.crt"
    cat "$folder/secure.key" "$folder/secure.crt" | "${as[@]}" tee "$folder/secure.pem" >/dev/null
    for _ in 1 2 3; do
        if ! kafka_is_running "$base"; then
            pick_port controller && controller_port=$port
            pick_port kafka-secure && secure_port=$port
            pick_port kafka
            [[ -s $folder/data/meta.properties ]] || kafka_create_data "$folder" "$base"
            report "starting Kafka on port $port"
            kafka_write_properties "$base/kafka.properties" "$folder/data" "$folder/secure.pem"
            cp "$root/dev/kafka/log4j2.xml" "$base/kafka-log4j2.xml" # a folder that the engine's user can read
            (kafka_launch "$folder" "$base" 384) &
            pid=$!
        else
            pid=$(<"$base/kafka.pid") # an earlier start may have been killed before the broker was ready
            port=$(known_port kafka)
        fi
        await_kafka "$pid" && return
        port_busy "$port" || port_busy "${controller_port:-$port}" || break # no other process took the ports
    done
    fail_with_log "Kafka does not start" "$base/kafka.out" "$folder/log/server.log"
}
await_kafka() { # pid
    local deadline=$((SECONDS + 300)) # thousands of partitions take a while after a kill -9
    until kafka_is_ready; do
        kill -0 "$1" 2>/dev/null || [[ -e /proc/$1 ]] || return 1
        ((SECONDS < deadline)) || die "Kafka (process $1) does not respond on port $port"
        sleep 0.1
    done
}

kafka_stop() {
    local base
    if [[ -e $state/kafka.docker ]]; then compose stop kafka &>/dev/null || true; fi
    [[ -s $state/kafka.place ]] || return 0
    base=$(<"$state/kafka.place")
    kafka_is_running "$base" || return 0
    report "stopping Kafka"
    kafka_end "$base" 20
}
kafka_end() { # base, seconds that it may take
    local pid
    pid=$(<"$1/kafka.pid")
    kill -TERM "$pid"
    ended_within "$2" process_has "$pid" "$1/kafka.properties" || kill -KILL "$pid"
}
