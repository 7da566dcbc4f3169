# shellcheck shell=bash
# The functions that the scripts of dev/ share: messages, packages, folders, ports, locks. Only sourced.

[[ $(uname -s) == Linux ]] || {
    echo "error: the scripts in dev/ need Linux" >&2
    exit 1
}
umask 022       # the engines' unprivileged user must read files that root writes here
export LC_ALL=C # scripts parse the output of tools

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# Adds rustup's cargo to PATH, for a login shell older than its installation.
[[ ! -x ${HOME:-}/.cargo/bin/cargo || :$PATH: == *":$HOME/.cargo/bin:"* ]] || PATH=$HOME/.cargo/bin:$PATH
# Local connections must bypass a proxy.
export NO_PROXY=127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}
export no_proxy=$NO_PROXY
state=$root/.dev # ports, locks and, where possible, the engines themselves; ignored by git

report() { printf '%s\n' "$*" >&2 || true; } # without a terminal, the script continues
die() {
    report "error: $*"
    exit 1
}
fail_with_log() { # what went wrong, log files…
    local what=$1 file
    shift
    for file in "$@"; do
        [[ -s $file ]] && report "--- last lines of $file" && tail -n 25 "$file" >&2
    done
    die "$what"
}

for tool in flock setpriv setsid; do
    command -v "$tool" >/dev/null || die "$tool is missing: install util-linux"
done
mkdir -p "$state" 2>/dev/null || die "the folder $state cannot be created"
[[ -w $state ]] || die "$state belongs to $(stat -c %U "$state"): run this command as that user, or remove the folder"

# ---- packages ----------------------------------------------------------------------------------

as_root() {
    if ((EUID)); then sudo -n "$@"; else "$@"; fi
}
# Installs the missing packages, or dies with a message about what to install.
install_packages() { # purpose, packages… (a/b/c: the first available one)
    local what=$1 log=$state/install.log
    local -a wanted=()
    shift
    if [[ ! -e /etc/debian_version ]] || ! command -v apt-get >/dev/null; then
        die "$what is missing: install it, then run this command again"
    fi
    first_available "$@"
    as_root true 2>/dev/null || die "$what is missing: run 'apt-get install ${wanted[*]}' as root, then run this command again"
    report "installing $what"
    (
        flock 9 # both engines may find something missing at the same time
        # 9>&-: a daemon that a package starts must not inherit the lock.
        apt_get update 9>&- >"$log" 2>&1 || true # if old lists are not enough, the next line fails
        first_available "$@" # the update may have added packages
        apt_get install -y --no-install-recommends "${wanted[@]}" 9>&- >>"$log" 2>&1 ||
            fail_with_log "$what cannot be installed" "$log"
    ) 9>"$state/install.lock" || exit 1
}
is_available() { # package; a package that is only referenced has a record, but no candidate
    [[ $(apt-cache policy "$1" 2>/dev/null) == *"Candidate: "[!\(]* ]]
}
first_available() { # packages…; sets wanted
    local choices package
    wanted=()
    for choices in "$@"; do
        for package in ${choices//\// }; do
            if is_available "$package"; then break; fi
        done
        wanted+=("$package")
    done
}
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

# ---- folders and users -------------------------------------------------------------------------

clone_name=patron-blocks-$(printf %s "$root" | cksum | cut -d' ' -f1)

# PostgreSQL refuses to run as root, and a broker needs no root. As root, both run as another user. Existing
# data decides the user, because its owner must stay the same.
engine_user() { # folder
    local owner
    ((EUID == 0)) || { id -un && return; }
    owner=$(stat -c %U "$1" 2>/dev/null) || owner=
    if [[ -n $owner && $owner != root ]] && id "$owner" &>/dev/null; then
        echo "$owner"
    elif id postgres &>/dev/null; then
        echo postgres
    else
        echo nobody
    fi
}

# Sets `as` to a prefix that runs a command as the user in a clean environment. So no variable of the caller
# (PG*, KAFKA_*, JAVA_TOOL_OPTIONS) changes the behaviour of an engine.
run_as() { # user
    as=(env -i PATH="$PATH" HOME=/ LC_ALL=C.UTF-8)
    ((EUID)) || as+=(setpriv --reuid="$1" --regid="$(id -g "$1")" --init-groups)
}

# Creates a folder that only the engine's user can use. The user may enter every parent folder. If the
# repository is in a closed home or on a file system without owners, the temp directory is used.
engine_folder() { # engine; sets folder and as
    local base user
    local -a candidates=("$state" "${TMPDIR:-/tmp}/$clone_name" "/tmp/$clone_name")
    # The folder chosen first remains, even if TMPDIR has changed.
    if [[ -s $state/$1.place ]]; then
        base=$(<"$state/$1.place")
        [[ $base == "$state" || $base == */"$clone_name" ]] && candidates=("$base" "${candidates[@]}")
    fi
    for base in "${candidates[@]}"; do
        mkdir -p "$base/$1" 2>/dev/null || continue
        # In a shared temp directory, any user can create a folder of this name.
        [[ $base == "$state" || (-O $base && ! -L $base) ]] || continue
        folder=$base/$1
        user=$(engine_user "$folder")
        run_as "$user"
        if ((EUID == 0)) && [[ $(stat -c %U "$folder") != "$user" ]]; then
            chown -R "$user" "$folder" 2>/dev/null || true
        fi
        chmod 700 "$folder" 2>/dev/null || true
        if (cd / && "${as[@]}" test -w "$folder" -a -x "$folder") && [[ $(stat -c %a "$folder") == 700 ]]; then
            [[ $(cat "$state/$1.place" 2>/dev/null) == "$base" ]] || echo "$base" >"$state/$1.place"
            return 0
        fi
        rmdir "$folder" 2>/dev/null || true
    done
    die "user $user cannot use a folder in any of: ${candidates[*]}"
}

# ---- processes, ports, locks -------------------------------------------------------------------

# A process id in a file may belong to another process by now; the command line identifies the process.
process_has() { # pid, an argument that only our process has
    local argument
    local -a arguments=()
    [[ $1 =~ ^[0-9]+$ ]] || return 1
    { mapfile -d '' -t arguments <"/proc/$1/cmdline"; } 2>/dev/null || return 1
    for argument in "${arguments[@]}"; do
        [[ $argument == "$2" ]] && return 0
    done
    return 1
}
not() { ! "$@"; }
ended_within() { # seconds, command that succeeds while it runs…
    local deadline=$((SECONDS + $1))
    shift
    while "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.05
    done
}

port_busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
known_port() { cat "$state/$1.port" 2>/dev/null || true; }
# Chooses the preferred port if it is free, else another one. All are below the kernel's range of ephemeral
# ports, so no outgoing connection can occupy a chosen port.
free_port() { # preferred; sets port
    port=$1
    [[ $port =~ ^[0-9]+$ ]] && ! port_busy "$port" && return
    while
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        port_busy "$port" || grep -qsx "$port" "$state"/*.port
    do :; done
}
pick_port() { # engine; prefers its previous port
    free_port "$(known_port "$1")"
    echo "$port" >"$state/$1.port.new"
    mv "$state/$1.port.new" "$state/$1.port"
}

# Creates a key and a self-signed certificate for tests of encrypted connections.
make_certificate() { # file of the key, file of the certificate
    [[ -s $2 ]] && return
    command -v openssl >/dev/null || install_packages "openssl, for a certificate," openssl
    (cd / && "${as[@]}" openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
        -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$1" -out "$2") \
        >"$state/certificate.log" 2>&1 </dev/null ||
        fail_with_log "a certificate cannot be created" "$state/certificate.log"
}

lock() { # name; locked until this process ends
    local handle
    exec {handle}>"$state/$1.lock"
    flock "$handle"
}
# Each user of the engines has this lock shared; only the last user gets it exclusively.
use_engines() { exec {in_use}>"$state/in-use" && flock -s "$in_use"; }
engines_are_unused() { flock -xn "$in_use"; }

# Closes the inherited handles of an engine that outlives the script: the locks, and the pipe of $(dev/up),
# which would wait for the end of the engine.
detach() {
    local handle
    exec </dev/null >/dev/null 2>&1
    for handle in /proc/self/fd/*; do
        handle=${handle##*/}
        ((handle <= 2 || handle == 255)) || eval "exec $handle>&-"
    done
    cd /
}

# ---- Docker ------------------------------------------------------------------------------------

docker_responds() {
    command -v docker >/dev/null && docker compose version &>/dev/null && timeout 5 docker info &>/dev/null
}
# The project name separates two clones. Ports and password come from the state, never from the caller.
compose() {
    env DB_PORT="$(known_port postgres)" KAFKA_PORT="$(known_port kafka)" DB_PASSWORD="$docker_password" \
        docker compose -p "$clone_name" -f "$root/docker-compose.yml" "$@"
}
docker_password=patron_blocks # the port is published on the loopback address only
docker_has() { # engine
    [[ -e $state/$1.docker ]] && docker_responds && [[ -n $(compose ps -q --status running "$1" 2>/dev/null) ]]
}
docker_start() { # engine, command that is true when it can be reached from here…
    local engine=$1 log=$state/$1.docker.log
    shift
    docker_responds || return 1
    pick_port "$engine"
    lock docker # two processes could both create the project's network
    report "starting $engine in Docker"
    touch "$state/$engine.docker" # marks the engine as a container; without it dev/down skips Docker
    if compose up -d --wait "$engine" >"$log" 2>&1 </dev/null; then
        # An engine on another machine may be ready there, but it is unreachable here.
        ended_within 30 not "$@" && return
        echo "127.0.0.1:$port is unreachable" >>"$log"
    fi
    compose rm -fs "$engine" &>/dev/null || true
    rm -f "$state/$engine.docker"
    tail -n 5 "$log" >&2
    report "Docker cannot start $engine: starting $engine as a process instead"
    return 1
}
