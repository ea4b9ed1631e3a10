#!/bin/sh
# Makes sure the servers and tools the tests start are on this machine. Does nothing, quickly, when they are.
# On Debian or Ubuntu as root it installs what is missing; elsewhere it says what to install and fails.
# `setup.sh bench` also wants what the benchmarks compile and compare with.
set -eu
cd "$(dirname "$0")"
FOR=${1:-tests}

POLICY=/usr/sbin/policy-rc.d

have() { command -v "$1" >/dev/null 2>&1; }

missing() {
    have redis-server || echo redis-server
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || have rabbitmq-server || echo rabbitmq-server
    have chromium || have chromium-browser || echo chromium
    have node || echo nodejs
    have npm || echo npm
    have ffmpeg || echo ffmpeg
    [ "$FOR" = bench ] || return 0
    have cc || echo gcc libc6-dev
    # nchan is packaged for Debian and Ubuntu only; elsewhere the tables do without its rows.
    ! have apt-get || [ -e /usr/lib/nginx/modules/ngx_nchan_module.so ] || echo nginx-light libnginx-mod-nchan
}

restore_policy() {
    rm -f "$POLICY"
    if [ -e "$POLICY.gateway-tests" ]; then mv "$POLICY.gateway-tests" "$POLICY"; fi
}

install_quietly() {
    # Debian starts a service it installs. The tests run their own servers, so nothing of the machine's is started.
    if [ -e "$POLICY" ]; then mv "$POLICY" "$POLICY.gateway-tests"; fi
    trap restore_policy EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    apt-get install -qq -y --no-install-recommends $1 >/dev/null
    trap - EXIT HUP INT TERM
    restore_policy
}

packages=$(missing | tr '\n' ' ')
if [ -n "$packages" ]; then
    if have apt-get && [ "$(id -u)" = 0 ]; then
        echo "installing for the tests: $packages"
        install_quietly "$packages"
        packages=$(missing | tr '\n' ' ')
    fi
fi
if [ -n "$packages" ]; then
    echo "The tests need these programs, which are not on this machine: $packages" >&2
    echo "On Debian or Ubuntu, as root: apt-get install --no-install-recommends $packages" >&2
    echo "On macOS: brew install redis rabbitmq node, and Chromium as \`chromium\` on the PATH" >&2
    exit 1
fi

stamp=interop/node_modules/.package-lock.json # npm writes it last
if [ -e interop/package-lock.json ] && { [ ! -e "$stamp" ] || [ interop/package-lock.json -nt "$stamp" ]; }; then
    (cd interop && npm ci --no-audit --no-fund --loglevel=error)
    touch "$stamp"
fi
