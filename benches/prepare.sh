# What benches/run, benches/soak and benches/attack have in common: options that are checked first, installing, building, a
# world of their own. To be sourced.

fail() {
  echo "$0: $*" >&2
  exit 1
}

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
export PYTHONDONTWRITEBYTECODE=1
# Where the script was called, before it went to the repository's root: what its arguments are relative to.
export BENCH_FROM=${OLDPWD:-$PWD}

# check_options MODULE ARGUMENT...: a slip costs no build. Ends here if only help was asked for.
check_options() {
  install_missing python3=python3
  python3 -m "$1" "${@:2}" --check-options || exit
  case " $* " in
    *" --help "* | *" -h "*) exit 0 ;;
  esac
  [ ${#as_root[@]} -eq 0 ] || command -v sudo >/dev/null ||
    fail "a network namespace of its own takes root: run this as root, or install sudo"
}

# install_missing NEED=PACKAGE...: a NEED is a file, or else a command.
install_missing() {
  local missing=() need
  for need; do
    [ -e "${need%=*}" ] || command -v "${need%=*}" >/dev/null || missing+=("${need#*=}")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "please install ${missing[*]}: there is no apt-get here to do it"
    echo "installing ${missing[*]}"
    apt_install "${missing[@]}" >/dev/null || fail "could not install ${missing[*]}"
  fi
}

# The benchmark starts its own servers: those that the packages would start are kept from it. (A subshell, for its trap;
# `|| exit`, because `set -e` is off in what is called as a condition.)
apt_install() (
  policy=/usr/sbin/policy-rc.d
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update || exit
  if [ ! -e $policy ]; then
    trap '"${as_root[@]}" rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" install -m 755 /dev/stdin $policy
  fi
  "${apt[@]}" install -y --no-install-recommends "$@"
)

target=${CARGO_TARGET_DIR:-target}
profile=deploy/pod-router.profdata

# build ARGUMENT...: the load, the floor, and the router as the image has it, unless the arguments name a binary.
build() {
  await_turn
  [[ " $* " == *" --binary"* ]] || router "-Cprofile-use=$PWD/$profile" "$target/benches/pod-router"
  tools
}

# router FLAG PATH: builds the router with a flag of the compiler. The target is named, or it would be for build scripts too.
router() {
  command -v cargo >/dev/null || fail "cargo is missing: install Rust, see https://rustup.rs"
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  CARGO_ENCODED_RUSTFLAGS="$1" cargo build --locked --release --bin pod-router --target "$host" --target-dir "$(dirname "$2")"
  # By its name at once: whoever runs the one before keeps that.
  cp "$(dirname "$2")/$host/release/pod-router" "$2.new"
  mv "$2.new" "$2"
  [[ "$1" != *profile-use* ]] || known_to_profile "$2"
}

# The compiler finds functions in the profile by names that hold their crate's number, which changes with its version and with
# each of its dependencies. Of a profile that has none of them it says nothing, and the router costs an eighth more in user space.
known_to_profile() {
  crates() { grep -ao 'pod_router\.[0-9a-f]\{16\}-cgu' "$1" | sort -u; }
  local unknown
  unknown=$(comm -23 <(crates "$1") <(crates "$profile"))
  [ -z "$unknown" ] || echo "NOTE: $profile is of before a change to Cargo.toml or Cargo.lock, and no use: benches/pgo renews it" >&2
}

tools() {
  cargo build --locked --release --example load --example floor
}

# Two runs at once would measure each other, and building disturbs as well: one waits. The lock is only read, for it may be
# another user's, and held until this shell and what it has started have ended.
await_turn() {
  [ -z "${has_turn:-}" ] || return 0
  local lock=/tmp/pod-router-bench.lock
  [ -e $lock ] || (umask 022 && : >$lock)
  [ -r $lock ] || fail "cannot read $lock, which keeps two runs apart: remove it if no other run is under way"
  exec 9<$lock
  flock --nonblock 9 || { echo "another run is under way: waiting for its end" && flock 9; }
  has_turn=yes
}

# alone COMMAND...: in a network namespace, where nothing tracks connections as dockerd's rules do, and in a process
# namespace, where whatever is left ends with the command. sudo keeps no environment, so what counts of it is handed over by
# name.
alone() {
  await_turn
  "${as_root[@]}" env PATH="$PATH:/usr/sbin" PYTHONDONTWRITEBYTECODE=1 CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}" \
    BENCH_FROM="$BENCH_FROM" BENCH_OUTSIDE="$(readlink /proc/self/ns/net)" \
    unshare --net --pid --fork --kill-child=TERM --mount-proc "$@" &
  # unshare takes no SIGTERM, and a shell heeds it only between commands: whoever ends this ends unshare, and so the command.
  local outer=$!
  trap 'end_alone $outer' TERM HUP INT # a terminal's SIGINT the command hears of as well: it heeds one
  wait $outer || { local status=$?; wait $outer 2>/dev/null || true; return $status; }
}

# Ends it, and waits until it has cleared up.
end_alone() {
  exec 2>/dev/null # of what it kills the shell would tell, with the whole command; that says itself why it ends
  local inner=$1 command
  [ ${#as_root[@]} -eq 0 ] || inner=$(pgrep -P "$1" -x unshare)
  command=$(pgrep -P "$inner" || true)
  "${as_root[@]}" kill -KILL "$inner"
  [ -z "$command" ] || tail --pid="$command" --sleep-interval=0.1 -f /dev/null
}
