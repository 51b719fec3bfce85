# What is tried in a guest. The last line of its console says how it ended.
. /run/words
echo "guest: up, Linux $(uname -r)"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NEXTEST_HIDE_PROGRESS_BAR=1
mkdir -p /lib/modules
ln -s "$kernel/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
# The kernel loads modules by this, as on any machine; the program is the unpacked package's.
ln -s "$tools/bin/kmod" /run/modprobe
echo /run/modprobe > /proc/sys/kernel/modprobe
ip link set lo up
cd "$root"

end() {
    echo "guest: exit $1"
    sync
    /run/busybox poweroff -f
}

# Of a list of binaries those that an expression names.
tests() {
    cargo-nextest nextest run --binaries-metadata "$lists/$1.json" --cargo-metadata "$lists/cargo.json" \
        --no-fail-fast --color never --status-level pass -E "$2" 2>&1 | tee /run/tests
    grep -q 'Summary.* passed' /run/tests && ! grep -q 'Summary.* failed' /run/tests
}

# manxd as a worker of the example cluster, with a rule that tracks. That it says "$1" once, lives on, has written its
# routes, and ends in 0.
says() {
    ip link add ens33 type veth peer name wire && ip link set wire up && ip link set ens33 up || return 1
    ip address add 192.168.80.124/24 dev ens33
    echo 1 > /proc/sys/net/ipv4/ip_forward
    nft add table ip t
    nft 'add chain ip t forward { type filter hook forward priority 0; }'
    nft add rule ip t forward ct state established accept || return 1
    mkdir -p /etc/manx
    cp examples/seed/1-cluster.yaml /etc/manx/
    target/debug/manxd --node-name k8s-worker-01 > /run/manxd 2>&1 &
    manxd=$!
    # Emulated, it takes its time to look around.
    turns=0
    until target/debug/manxctl dataplane status > /run/status 2>&1 && cat /run/manxd /run/status | grep -q "$1"; do
        turns=$((turns + 1))
        [ $turns -lt 60 ] || break
        /run/busybox sleep 2
    done
    cat /run/manxd /run/status
    cat /run/manxd /run/status | grep -q "$1" || return 1
    # Once in its log; the status says it as long as it is so.
    [ "$(grep -c "$1" /run/manxd)" = 1 ] || return 1
    kill -0 $manxd || return 1
    ip route show proto 77
    ip route show proto 77 | grep -q '^blackhole 172.16.36.192' || return 1
    kill $manxd
    wait $manxd
}

case $trial in
module)
    # Nothing has loaded conntrack: the test's first look at it does, and the programs get the guard then.
    [ ! -e /sys/module/nf_conntrack ] || end 1
    tests dataplane 'test(only_what_conntrack_has_admitted_is_carried_in_ipv4)' || end 1
    [ "$(cat /sys/module/nf_conntrack/initstate)" = live ] || end 1
    # Now it is there at the start.
    # What is remembered until a number of the kernel's changes is read by its own types.
    tests dataplane 'test(only_what_conntrack_has_admitted) | test(ebpf::kfunc) | test(ebpf::module) | test(ebpf::load) | test(ebpf::budget) | test(nobody_keeps) | test(lifecycle::a_dead_agent) | test(lifecycle::cleanup) | test(asymmetric) | test(generation::) | test(rooms::) | test(vacancies::)'
    end $?
    ;;
netfilter)
    export MANX_BIN_DIR="$root/target/debug" RUST_BACKTRACE=0 MANX_SLOWER=10 NEXTEST_PROFILE=guest
    # Emulated, a scenario takes ten to thirty times as long: of each kind the one that says most.
    fast='test(with_the_fast_path) & (test(pods_talk_to_pods) | test(a_service_leads) | test(one_source_port) |'
    fast="$fast test(is_masqueraded) | test(decided_anew) | test(kept_alive_under) | test(get_a_zone) |"
    fast="$fast test(are_the_usual_ones) | test(banned_for_a_while) | test(connections_outlive) |"
    fast="$fast test(written_anew) | test(idle_connections) | test(conntrack_forgot) | test(closed_port))"
    tests netfilter "$fast | test(hooks::filters) | test(hooks::a_program_where)"
    end $?
    ;;
untyped)
    says 'came as a module without types'
    end $?
    ;;
old)
    says 'needs Linux 6.6 or newer'
    end $?
    ;;
esac
echo "guest: no such trial: $trial"
end 1
