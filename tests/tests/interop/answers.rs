//! A question about a table of forty thousand routes delays nothing else that the daemon has to do.

use std::{
    fs,
    net::Ipv4Addr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use manx_api::Routes;
use manx_tests::{
    lab::Lab,
    peers::manx::{Manx, resources},
    process::Daemon,
    wait::eventually,
};

use crate::lab::{AS, HIGH, MIDDLE, POOLS};

/// MANX_ROUTES says otherwise.
const ROUTES: usize = 40_000;
const LOADED: Duration = Duration::from_secs(120);

fn routes_wanted() -> usize {
    std::env::var("MANX_ROUTES").ok().and_then(|routes| routes.parse().ok()).unwrap_or(ROUTES)
}

/// A BIRD that announces all of them to the place in the middle. One static protocol holds them, which the speakers of
/// other tests do not allow for.
fn many_routes() -> String {
    let mut out = format!(
        "log stderr all;\nrouter id {};\nprotocol device {{ }}\nprotocol direct {{ ipv4; }}\nprotocol static {{ ipv4;\n",
        HIGH.ipv4()
    );
    for n in 0..routes_wanted() as u32 {
        let network = Ipv4Addr::from_bits((10 << 24) + (n << 6));
        out.push_str(&format!("route {network}/26 blackhole;\n"));
    }
    out.push_str(&format!(
        "}}\nprotocol bgp {{ local {} as {AS}; neighbor {} as {AS}; direct; connect delay time 1;\n\
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n",
        HIGH.ipv4(),
        MIDDLE.ipv4()
    ));
    out
}

#[test]
fn a_long_answer_holds_up_neither_other_answers_nor_keepalives() -> Result<()> {
    let mut lab = Lab::new()?;
    let peers: Vec<_> = HIGH.peers(AS).take(1).collect();
    fs::write(lab.store().join("cluster.yaml"), resources(AS, &POOLS, &[MIDDLE.node(None)], &peers))?;
    let high = HIGH.host(&mut lab)?;
    high.write_file("/etc/bird/bird.conf", &many_routes())?;
    high.sh("mkdir -p /run/bird")?;
    let mut bird = Command::new("bird");
    bird.arg("-f");
    let _bird = Daemon::start(&high, "bird", bird, &lab.logs().join("bird.log"))?;
    let node = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    // Own blocks of both families, and the pools' own entries in the map.
    let expected = routes_wanted() + MIDDLE.blocks().len() + POOLS.len();
    let routes = || -> Result<Routes> { Ok(serde_json::from_str(&node.host.sh("manxctl routes -o json")?)?) };
    eventually("everything is in both sinks", LOADED, || {
        let all = routes()?.routes;
        let agree = all.iter().filter(|row| row.agree).count();
        ensure!(all.len() == expected && agree == expected, "{} rows, {agree} as wanted", all.len());
        Ok(())
    })?;

    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    let took = thread::scope(|scope| -> Result<Duration> {
        let long = scope.spawn(|| routes().map(|all| (all, started.elapsed())));
        while !long.is_finished() {
            let asked = Instant::now();
            node.peer(HIGH.ipv4().into())?;
            slowest = slowest.max(asked.elapsed());
        }
        let (all, took) = long.join().map_err(|_| anyhow::anyhow!("the question panicked"))??;
        let sorted = all.routes.is_sorted_by_key(|row| row.prefix);
        ensure!(sorted && all.routes.len() == expected && all.next.is_none(), "{} rows", all.routes.len());
        Ok(took)
    })?;
    println!("{expected} rows in {took:?}; meanwhile a status took {slowest:?} at most");
    // A process of its own asks for each status, on a machine with other things to do.
    ensure!(slowest < Duration::from_secs(1) && slowest < took / 2, "{slowest:?} of {took:?}");

    // An audit of all of it, which is clean, holds up nothing either.
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    let took = thread::scope(|scope| -> Result<Duration> {
        let audit =
            scope.spawn(|| node.host.output("manxctl dataplane audit").map(|out| (out, started.elapsed())));
        while !audit.is_finished() {
            let asked = Instant::now();
            node.peer(HIGH.ipv4().into())?;
            slowest = slowest.max(asked.elapsed());
        }
        let (output, took) = audit.join().map_err(|_| anyhow::anyhow!("the audit panicked"))??;
        ensure!(output.status.success(), "{output:?}");
        println!("{}", output.stdout);
        Ok(took)
    })?;
    println!("an audit of {expected} prefixes took {took:?}; meanwhile a status took {slowest:?} at most");
    ensure!(slowest < Duration::from_secs(1), "{slowest:?} of {took:?}");

    // By pages it is the same table.
    let whole = routes()?.routes;
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let query = after.map_or_else(String::new, |after| format!("&after={after}"));
        let page = node.host.sh(&format!(
            "curl -s --unix-socket /run/manx/manx.sock http://manxd/v1/routes?limit=15000{query}"
        ))?;
        let page: Routes = serde_json::from_str(&page)?;
        ensure!(page.routes.len() <= 15_000, "{} rows", page.routes.len());
        pages.extend(page.routes);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    ensure!(pages == whole, "{} rows by pages, {} at once", pages.len(), whole.len());

    // What changes while it is compared is not taken for somebody's doing.
    thread::scope(|scope| -> Result<()> {
        let churn = scope.spawn(|| -> Result<()> {
            for _ in 0..3 {
                high.sh("birdc disable static1")?;
                thread::sleep(Duration::from_millis(700));
                high.sh("birdc enable static1")?;
                thread::sleep(Duration::from_millis(700));
            }
            Ok(())
        });
        while !churn.is_finished() {
            let output = node.host.output("manxctl dataplane audit --dry-run")?;
            ensure!(output.status.success(), "{output:?}");
            println!("while all routes go and come: {}", output.stdout);
        }
        churn.join().map_err(|_| anyhow::anyhow!("the churn panicked"))?
    })?;
    eventually("everything is in both sinks again", LOADED, || {
        let agree = routes()?.routes.iter().filter(|row| row.agree).count();
        ensure!(agree == expected, "{agree} as wanted");
        Ok(())
    })?;

    let explained = Instant::now();
    let text = node.host.sh("manxctl explain 10.7.8.9")?;
    ensure!(text.starts_with("10.7.8.0/26 on middle"), "{text}");
    println!("an explanation took {:?}", explained.elapsed());
    Ok(())
}
