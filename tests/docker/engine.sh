#!/usr/bin/env bash
# A private Docker engine for the tests, started as root on a machine that has none: no systemd, no registry.
#
#   engine.sh start DIR   install what is missing, start the engine, make the base images; prints shell exports
#   engine.sh stop DIR    stop the engine that `start DIR` started (its images stay in DIR for the next start)
#   engine.sh purge DIR   stop it and delete DIR
#
# containerd, runc and iptables are packages of this Debian release. Its own engine is too old (its BuildKit has no
# heredocs, and there is no compose), so engine, CLI, compose and buildx come from the next release: downloaded and
# unpacked in DIR, never installed. The base images are made from Debian packages, as stand-ins for the public ones.
set -euo pipefail

NEXT_RELEASE=trixie
SUBNET=198.18.100.1/24          # a range for tests (RFC 2544), which no site routes
POOL=198.18.128.0/17

fail() { printf 'engine.sh: %s\n' "$*" >&2; exit 1; }
note() { printf 'engine.sh: %s\n' "$*" >&2; }

action=${1:-}; dir=${2:-}
[[ $action =~ ^(start|stop|purge)$ && -n $dir ]] || fail "usage: engine.sh start|stop|purge DIR"
mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=$dir/root/usr
export PATH=$tools/sbin:$tools/bin:$PATH
export DOCKER_HOST=unix://$dir/docker.sock DOCKER_CONFIG=$dir/config

running() { [[ -s $dir/dockerd.pid ]] && kill -0 "$(cat "$dir/dockerd.pid")" 2>/dev/null; }

# apt with the next release as its only source and folders of its own; the machine's apt state is not touched.
next_apt() {
  local sources=/etc/apt/sources.list.d/debian.sources
  [[ -s $sources ]] || fail "no $sources here; install Docker 24 or later with compose and buildx, and rerun"
  mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
  awk 'BEGIN { RS = ""; ORS = "\n\n" } NR == 1' "$sources" | sed "s/^Suites:.*/Suites: $NEXT_RELEASE/" > "$dir/apt/next.sources"
  apt-get -o Dir::Etc::sourcelist="$dir/apt/next.sources" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$dir/apt/lists" \
    -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User=root "$@"
}

install_engine() {
  [[ $(id -u) == 0 ]] || fail "root is needed to start an engine; start Docker yourself and rerun"
  command -v apt-get > /dev/null || fail "no apt-get here; install Docker 24 or later with compose and buildx, and rerun"
  local missing=()
  for pair in containerd:containerd runc:runc iptables:iptables tini-static:tini mmdebstrap:mmdebstrap ip:iproute2; do
    command -v "${pair%%:*}" > /dev/null || missing+=("${pair##*:}")
  done
  if (( ${#missing[@]} )); then
    note "installing ${missing[*]}"
    apt-get update -qq > "$dir/apt.log" 2>&1 || fail "apt-get update failed: $(tail -3 "$dir/apt.log")"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >> "$dir/apt.log" 2>&1 \
      || fail "cannot install ${missing[*]}: $(tail -3 "$dir/apt.log")"
  fi
  if [[ ! -x $tools/sbin/dockerd || ! -x $tools/libexec/docker/cli-plugins/docker-compose ]]; then
    note "downloading the engine"
    next_apt update -qq >> "$dir/apt.log" 2>&1 || fail "cannot read the $NEXT_RELEASE package list: $(tail -3 "$dir/apt.log")"
    mkdir -p "$dir/debs" "$dir/root"
    (cd "$dir/debs" && next_apt download -qq docker.io docker-cli docker-compose docker-buildx >> "$dir/apt.log" 2>&1) \
      || fail "cannot download the engine: $(tail -3 "$dir/apt.log")"
    for package in "$dir"/debs/*.deb; do dpkg -x "$package" "$dir/root"; done
  fi
  mkdir -p "$dir/config"
  ln -sfn "$tools/libexec/docker/cli-plugins" "$dir/config/cli-plugins"
}

start_engine() {
  running && return
  rm -f "$dir/dockerd.pid" "$dir/docker.sock"
  setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" --host "$DOCKER_HOST" \
    --init-path "$(command -v tini-static)" --bip "$SUBNET" --default-address-pool "base=$POOL,size=24" \
    --log-opt max-size=10m > "$dir/dockerd.log" 2>&1 < /dev/null &
  for _ in $(seq 300); do
    docker info > /dev/null 2>&1 && return
    sleep 0.1
  done
  fail "the engine did not start within 30 s: $(grep -vi 'level=info' "$dir/dockerd.log" | tail -5)"
}

# One folder holds debian:bookworm-slim and python:3.11-slim as far as these images use them.
base_images() {
  if ! docker image inspect debian:bookworm-slim > /dev/null 2>&1; then
    note "making debian:bookworm-slim"
    [[ -s $dir/base.tar ]] || TMPDIR=$dir mmdebstrap --quiet --variant=minbase --include=ca-certificates \
      --customize-hook='rm -rf "$1"/usr/share/{doc,man,locale,info}/* "$1"/etc/resolv.conf "$1"/etc/hostname' \
      bookworm "$dir/base.tar" 2> "$dir/mmdebstrap.log" || fail "mmdebstrap: $(tail -3 "$dir/mmdebstrap.log")"
    docker import --change 'CMD ["bash"]' --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      "$dir/base.tar" debian:bookworm-slim > /dev/null
  fi
  if ! docker image inspect python:3.11-slim > /dev/null 2>&1; then
    note "making python:3.11-slim"
    docker build --quiet --tag python:3.11-slim --file "$here/images/python.Dockerfile" "$here/images" > /dev/null
  fi
}

stop_engine() {
  running || return 0
  local pid; pid=$(cat "$dir/dockerd.pid")
  kill "$pid"
  for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -0 "$pid" 2>/dev/null && fail "the engine (process $pid) does not stop"
  ip link del docker0 2>/dev/null || true
}

case $action in
  start)
    install_engine
    start_engine
    base_images
    printf 'export PATH=%q:$PATH\nexport DOCKER_HOST=%q\nexport DOCKER_CONFIG=%q\n' "$tools/sbin:$tools/bin" "$DOCKER_HOST" "$DOCKER_CONFIG"
    ;;
  stop) stop_engine ;;
  purge) stop_engine; rm -rf "$dir" ;;
esac
