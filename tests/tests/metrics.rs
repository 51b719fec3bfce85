//! What Prometheus sees: the text is right by promtool's word, says what `manxctl` says, and a real Prometheus that scrapes three
//! nodes can answer every query of the dashboard and of the alert rules.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use manx_tests::{
    cluster::Cluster,
    http,
    process::Daemon,
    programs,
    story::{SETTLED, Stage, ping, pods_across, settled},
    wait::eventually,
};
use serde_json::Value;

const METRICS: &str = "0.0.0.0:9091";
const OWN: &str = "127.0.0.1:9091";
const PROMETHEUS: &str = "127.0.0.1:9090";
/// Some scrapes, of which rates are made.
const SCRAPED: Duration = Duration::from_secs(40);

fn monitoring() -> std::path::PathBuf {
    programs::workspace().join("deploy/monitoring")
}

fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::new(&[])?;
    for node in &mut cluster.nodes {
        node.flags = vec!["--metrics-address", METRICS];
    }
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    Ok(cluster)
}

#[test]
fn metrics_are_open_metrics_and_say_what_manxctl_says() -> Result<()> {
    let cluster = cluster()?;
    let kw01 = cluster.node("kw01");
    let (code, text) = http::get(&kw01.host, OWN, "/metrics")?;
    ensure!(code == 200, "{text}");
    ensure!(http::get(&kw01.host, OWN, "/v1/status")?.0 == 404, "nothing else is answered there");
    for line in [
        "manx_ready 1",
        "manx_session_state{peer=\"192.168.80.125\",peer_node=\"k8s-worker-02\",state=\"Established\"} 1",
        "manx_session_state{peer=\"192.168.80.125\",peer_node=\"k8s-worker-02\",state=\"Idle\"} 0",
        "manx_sessions_established_total{peer=\"192.168.80.125\",peer_node=\"k8s-worker-02\"} 1",
        "manx_prefixes_received{peer=\"192.168.80.125\",peer_node=\"k8s-worker-02\"} 1",
        "manx_prefixes_sent{peer=\"192.168.80.125\",peer_node=\"k8s-worker-02\"} 1",
        "manx_fib_routes{state=\"installed\"} 2",
        "manx_fast_path 1",
        "# TYPE manx_convergence_seconds histogram",
        "# TYPE process_open_fds gauge",
    ] {
        ensure!(text.lines().any(|said| said == line), "{line}\n{text}");
    }
    ensure!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    // promtool knows the older format, which differs in the types of counters and in the last line.
    let file = cluster.lab.dir().join("metrics.txt");
    let older: String = text
        .lines()
        .filter(|line| !line.starts_with("# EOF") && !line.starts_with("# UNIT"))
        .map(|line| match line.strip_suffix(" counter") {
            Some(name) => format!("{name}_total counter\n"),
            None if line.starts_with("# HELP")
                && text.contains(&format!("{}_total", line.split(' ').nth(2).unwrap_or_default())) =>
            {
                line.replacen(
                    line.split(' ').nth(2).unwrap_or_default(),
                    &format!("{}_total", line.split(' ').nth(2).unwrap_or_default()),
                    1,
                ) + "\n"
            }
            None => format!("{line}\n"),
        })
        .collect();
    fs::write(&file, older)?;
    kw01.host.shell(&format!("promtool check metrics < {}", file.display()))?.success()?;

    // A session that ends is counted with its NOTIFICATION.
    kw01.host.sh("manxctl peer disable 192.168.80.125")?;
    eventually("the metrics follow", SETTLED, || {
        let (_, text) = http::get(&kw01.host, OWN, "/metrics")?;
        for line in [
            "manx_session_state{peer=\"192.168.80.125\",peer_node=\"k8s-worker-02\",state=\"Established\"} 0",
            "manx_notifications_total{way=\"sent\",code=\"6\",subcode=\"2\",name=\"Cease / Administrative Shutdown\"} 1",
        ] {
            ensure!(text.lines().any(|said| said == line), "{line}\n{text}");
        }
        Ok(())
    })
}

#[test]
fn the_alert_rules_hold_by_promtools_tests() -> Result<()> {
    for args in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts-test.yaml"]] {
        let run = Command::new("promtool").args(args).current_dir(monitoring()).output()?;
        ensure!(
            run.status.success(),
            "promtool {args:?}: {}{}",
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr)
        );
    }
    // Each rule is among those that the tests see firing.
    let rules = fs::read_to_string(monitoring().join("alerts.yaml"))?;
    let tests = fs::read_to_string(monitoring().join("alerts-test.yaml"))?;
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        ensure!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} is never seen firing");
    }
    Ok(())
}

/// The expressions of all panels.
fn queries(dashboard: &Path) -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(dashboard)?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut found = Vec::new();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
        let text = target["expr"].as_str().context("a target without an expression")?;
        found.push(text.replace("$instance", ".*").replace("$__rate_interval", "30s"));
    }
    Ok(found)
}

fn ask(cluster: &Cluster, query: &str) -> Result<Vec<Value>> {
    let escaped: String = query
        .bytes()
        .map(|octet| match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(octet).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    let (code, body) =
        http::get(&cluster.node("km01").host, PROMETHEUS, &format!("/api/v1/query?query={escaped}"))?;
    let answer: Value = serde_json::from_str(&body).with_context(|| format!("{code}: {body}"))?;
    ensure!(code == 200 && answer["status"] == "success", "{query}: {body}");
    answer["data"]["result"].as_array().cloned().with_context(|| body.clone())
}

#[test]
fn a_prometheus_that_scrapes_three_nodes_answers_every_query_of_the_dashboard() -> Result<()> {
    let cluster = cluster()?;
    let km01 = cluster.node("km01");
    let dir = cluster.lab.dir().join("prometheus");
    fs::create_dir(&dir)?;
    let rules = monitoring().join("alerts.yaml");
    fs::write(
        dir.join("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 2s, evaluation_interval: 2s}}\nrule_files: ['{}']\nscrape_configs:\n- job_name: manx\n  \
             static_configs: [{{targets: ['192.168.80.121:9091', '192.168.80.124:9091', '192.168.80.125:9091']}}]\n",
            rules.display()
        ),
    )?;
    let mut command = Command::new("prometheus");
    command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    let _prometheus =
        Daemon::start(&km01.host, "prometheus", command, &cluster.lab.logs().join("prometheus.log"))?;
    eventually("three nodes are scraped", SCRAPED, || {
        let up = ask(&cluster, "up == 1")?;
        ensure!(up.len() == 3, "{up:?}");
        Ok(())
    })?;
    // Something of everything: packets, a drop, a repair, a session that ends and comes again.
    let kw01 = cluster.node("kw01");
    let nobody = kw01.pods[0].output("ping -n -c 3 -i 0.2 -W 1 172.16.36.200")?;
    ensure!(!nobody.status.success(), "who answers for 172.16.36.200?");
    for (from, to) in pods_across(&cluster) {
        ping(from, to.address())?;
    }
    kw01.host.sh("ip route del 172.16.118.64/26 proto manx")?;
    kw01.host.sh("manxctl peer disable 192.168.80.125")?;
    kw01.host.sh("manxctl peer enable 192.168.80.125")?;
    let queries = queries(&monitoring().join("dashboard.json"))?;
    ensure!(queries.len() > 20, "{queries:?}");
    for query in &queries {
        eventually(&format!("there is an answer to {query}"), SCRAPED, || {
            let found = ask(&cluster, query)?;
            ensure!(!found.is_empty(), "none");
            Ok(())
        })?;
    }
    // The rules can be evaluated; and so can what they ask for without the bounds, which is there.
    let (_, said) = http::get(&km01.host, PROMETHEUS, "/api/v1/rules")?;
    let said: Value = serde_json::from_str(&said)?;
    let rules = said["data"]["groups"][0]["rules"].as_array().context("no rules")?;
    for rule in rules {
        if rule["health"] != "ok" {
            bail!("{rule}");
        }
        let text = rule["query"].as_str().context("no query")?;
        for name in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if name.starts_with("manx_") && !["manx_routes_held", "manx_audit_findings"].contains(&name) {
                let found = ask(&cluster, name)?;
                ensure!(!found.is_empty(), "{name}, of which {} asks, is nowhere", rule["name"]);
            }
        }
    }
    Ok(())
}
