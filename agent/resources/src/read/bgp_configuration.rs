//! The fields of BGPConfiguration.

use std::{collections::BTreeMap, net::IpAddr};

use manx_net::Prefix;

use crate::{
    fields::{Fields, Form},
    nearest::nearest,
    read::{annotations::Annotations, extensions, fast_path, value},
    spec::{BgpConfiguration, PrefixAdvertisement, Services},
};

/// What only the object named `default` may say.
const CLUSTER_ONLY: [&str; 7] = [
    "nodeToNodeMeshEnabled",
    "asNumber",
    "serviceLoadBalancerIPs",
    "serviceExternalIPs",
    "serviceClusterIPs",
    "nodeMeshPassword",
    "nodeMeshMaxRestartTime",
];

pub(super) fn read(
    document: &mut Fields<'_, '_>,
    annotations: &mut Annotations<'_, '_>,
    name: &str,
) -> Option<BgpConfiguration> {
    let extensions = extensions::of_speaker(annotations);
    let fast_path = fast_path::of_configuration(annotations);
    // What the mesh is, both its ends must agree on: no node has settings of its own for it.
    let mesh = if name == "default" { extensions::of_mesh(annotations) } else { Default::default() };
    let of_node = name.strip_prefix("node.").is_some_and(|node| !node.is_empty());
    if !name.is_empty() && name != "default" && !of_node {
        document.warn(
            "metadata",
            format!(
                "a BGPConfiguration has an effect under the name default or node.NAME only, not \"{name}\""
            ),
        );
    }
    let Some(mut spec) = document.object("spec") else {
        let bare = BgpConfiguration { extensions, fast_path, mesh, ..BgpConfiguration::default() };
        return (!document.is_set("spec")).then_some(bare);
    };
    let read = BgpConfiguration {
        log_severity_screen: log_severity(&mut spec),
        node_to_node_mesh_enabled: spec.boolean("nodeToNodeMeshEnabled"),
        as_number: spec.parse("asNumber", str::parse),
        listen_port: spec.integer("listenPort", 1..=65535).and_then(|port| u16::try_from(port).ok()),
        bind_node_ip: spec.choice("bindMode", &[("None", false), ("NodeIP", true)]).unwrap_or(false),
        node_mesh_password: value::secret(&mut spec, "nodeMeshPassword"),
        node_mesh_max_restart_time: value::seconds(&mut spec, "nodeMeshMaxRestartTime", 0, 4095),
        services: Services {
            cluster: services(&mut spec, "serviceClusterIPs"),
            external: services(&mut spec, "serviceExternalIPs"),
            load_balancer: services(&mut spec, "serviceLoadBalancerIPs"),
            single_load_balancers: spec
                .choice("serviceLoadBalancerAggregation", &[("Enabled", false), ("Disabled", true)])
                .unwrap_or(false),
        },
        ipv4_normal_route_priority: priority(&mut spec, "ipv4NormalRoutePriority"),
        ipv6_normal_route_priority: priority(&mut spec, "ipv6NormalRoutePriority"),
        prefix_advertisements: advertisements(&mut spec),
        extensions,
        fast_path,
        mesh,
    };
    spec.parse_each("ignoredInterfaces", value::interface_pattern);
    // Felix gives it to the interfaces of pods that peer with their node.
    for (field, ipv4) in [("localWorkloadPeeringIPV4", true), ("localWorkloadPeeringIPV6", false)] {
        let of_family = |address: IpAddr| match address.is_ipv4() == ipv4 {
            true => Ok(address),
            false => Err(format!("{address} is of the other family")),
        };
        spec.parse(field, |text| value::ip(text).map_err(|error| error.to_string()).and_then(of_family));
    }
    spec.accept(&[("ignoredInterfaces", Form::List)]);
    if spec.length_of("ignoredInterfaces") > 0 {
        spec.warn(
            "ignoredInterfaces",
            "has no effect: it keeps Calico's BIRD from taking the prefixes of these interfaces as routes of its own, and \
             Manx takes those of no interface; what is announced are blocks, services and pods' addresses",
        );
    }
    if read.bind_node_ip && name != "default" {
        spec.without_effect("bindMode");
    }
    // Which of Calico's programs writes the routes; here there is one.
    spec.choice(
        "programClusterRoutes",
        &["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"].map(|word| (word, ())),
    );
    if name != "default" {
        for field in CLUSTER_ONLY.into_iter().filter(|field| spec.is_set(field)) {
            spec.refuse(field, format!("Cannot set {field} on a non default BGP Configuration."));
        }
    } else if read.node_to_node_mesh_enabled == Some(false) {
        for field in ["nodeMeshPassword", "nodeMeshMaxRestartTime"] {
            if spec.is_set(field) {
                spec.refuse(field, format!("{field} cannot be set when nodeToNodeMeshEnabled is false"));
            }
        }
    }
    spec.finish();
    Some(read)
}

/// `[{cidr: 10.96.0.0/12}]`
fn services(spec: &mut Fields<'_, '_>, field: &'static str) -> Vec<Prefix> {
    let mut prefixes = Vec::new();
    for mut service in spec.objects(field) {
        let prefix = service.parse("cidr", str::parse::<Prefix>);
        if prefix.is_none() && !service.is_set("cidr") {
            service.refuse("cidr", "is missing; write a prefix, such as 10.96.0.0/12");
        }
        prefixes.extend(prefix);
        service.finish();
    }
    prefixes
}

/// Calico's limits.
const MAX_COMMUNITIES: usize = 500;
const MAX_ADVERTISEMENTS: usize = 500;
const MAX_OF_ONE: usize = 50;

/// `communities` gives names to values, and `prefixAdvertisements` says where they belong, by name or by value.
fn advertisements(spec: &mut Fields<'_, '_>) -> Vec<PrefixAdvertisement> {
    for (field, most) in [("communities", MAX_COMMUNITIES), ("prefixAdvertisements", MAX_ADVERTISEMENTS)] {
        let length = spec.length_of(field);
        if length > most {
            spec.refuse(field, format!("has {length} members; Calico takes {most} at most"));
        }
    }
    let mut names = BTreeMap::new();
    for mut community in spec.objects("communities") {
        let name = community.text("name").map(str::to_owned);
        let value = community.parse("value", value::community);
        for field in ["name", "value"] {
            if !community.is_set(field) {
                community.refuse(field, "is missing; a community has a name and a value, such as 65000:100");
            }
        }
        community.finish();
        if let (Some(name), Some(value)) = (name, value) {
            names.insert(name, value);
        }
    }
    if spec.length_of("communities") > 0 && spec.length_of("prefixAdvertisements") == 0 {
        spec.refuse("communities", "communities are defined but not used in prefixAdvertisements");
    }
    let mut advertisements = Vec::new();
    for mut advertisement in spec.objects("prefixAdvertisements") {
        let cidr = advertisement.parse("cidr", str::parse::<Prefix>);
        if cidr.is_none() && !advertisement.is_set("cidr") {
            advertisement.refuse("cidr", "is missing; write a prefix, such as 172.16.0.0/16");
        }
        let length = advertisement.length_of("communities");
        if length > MAX_OF_ONE {
            advertisement
                .refuse("communities", format!("has {length} members; Calico takes {MAX_OF_ONE} at most"));
        }
        let communities = advertisement.parse_each("communities", |text| match names.get(text) {
            Some(value) => Ok(*value),
            // What looks like a value is one, and its fault is told as one.
            None if text.contains(':') => value::community(text).map_err(|error| error.to_string()),
            None => Err(match nearest(text, names.keys().map(String::as_str)) {
                Some(near) => format!("community used is invalid or not defined; did you mean {near}?"),
                None => {
                    "community used is invalid or not defined; define it in spec.communities, or write aa:nn"
                        .to_owned()
                }
            }),
        });
        advertisement.finish();
        advertisements.extend(cidr.map(|cidr| PrefixAdvertisement { cidr, communities }));
    }
    advertisements
}

fn priority(spec: &mut Fields<'_, '_>, field: &'static str) -> Option<u32> {
    spec.integer(field, 1..=2_147_483_646).and_then(|priority| u32::try_from(priority).ok())
}

fn log_severity(spec: &mut Fields<'_, '_>) -> Option<String> {
    let text = spec.text("logSeverityScreen")?;
    const WORDS: [&str; 6] = ["Trace", "Debug", "Info", "Warning", "Error", "Fatal"];
    if !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        let text = crate::tree::excerpt(text);
        spec.refuse("logSeverityScreen", format!("\"{text}\" is not one of {}", WORDS.join(", ")));
    }
    Some(text.to_owned())
}
