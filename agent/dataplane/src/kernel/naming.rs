//! What a link is, by its name and its place: uplinks match a pattern and stand alone, pod interfaces have a prefix.

use regex_lite::Regex;

use super::Role;

/// Calico's default for `bpfDataIfacePattern`.
pub const DEFAULT_UPLINKS: &str = "^((en|wl|ww|sl|ib)[Popsx].*|(eth|wlan|wwan|bond).*)";
/// What Calico's CNI plugin calls the host side of a pod's veth.
pub const DEFAULT_POD_PREFIX: &str = "cali";

#[derive(Clone, Debug)]
pub struct Naming {
    uplinks: Regex,
    pod_prefix: String,
}

impl Naming {
    pub fn new(uplinks: &str, pod_prefix: &str) -> Result<Naming, regex_lite::Error> {
        Ok(Naming { uplinks: Regex::new(uplinks)?, pod_prefix: pod_prefix.to_owned() })
    }

    /// The pattern of uplinks' names.
    pub fn uplinks(&self) -> &str {
        self.uplinks.as_str()
    }

    /// A pod interface is never an uplink, whatever the pattern says. Nor is one that belongs to another device
    /// (`IFLA_MASTER`): a bridge's port, a bond's or team's link, what an Open vSwitch or a VRF has. The packets are
    /// routed by the device above it, which is the uplink if it matches the pattern; below it they would be
    /// routed past the bridge, or by a table that is not ours.
    pub fn role(&self, name: &str, master: Option<u32>) -> Role {
        if !self.pod_prefix.is_empty() && name.starts_with(&self.pod_prefix) {
            Role::Pod
        } else if master.is_none() && self.uplinks.is_match(name) {
            Role::Uplink
        } else {
            Role::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calicos_default_pattern_knows_the_usual_uplinks() {
        let naming = Naming::new(DEFAULT_UPLINKS, DEFAULT_POD_PREFIX).unwrap();
        for name in ["ens33", "eth0", "enp3s0", "bond0", "wlan0", "eno1", "ibs4"] {
            assert_eq!(naming.role(name, None), Role::Uplink, "{name}");
        }
        for name in ["docker0", "lo", "tunl0", "vxlan.calico", "kube-ipvs0", "veth1"] {
            assert_eq!(naming.role(name, None), Role::Other, "{name}");
        }
        assert_eq!(naming.role("cali0123456789a", None), Role::Pod);
    }

    #[test]
    fn a_pod_interface_is_no_uplink_even_if_the_pattern_matches_everything() {
        assert_eq!(Naming::new(".*", "cali").unwrap().role("cali1", None), Role::Pod);
    }

    #[test]
    fn a_bonds_links_and_a_bridges_ports_are_no_uplinks_and_what_is_above_them_is() {
        let naming = Naming::new(DEFAULT_UPLINKS, DEFAULT_POD_PREFIX).unwrap();
        for name in ["ens33", "eth0", "enp3s0f1"] {
            assert_eq!(naming.role(name, Some(7)), Role::Other, "{name}");
        }
        for name in ["bond0", "bond0.100", "ens33.100", "enp3s0.7"] {
            assert_eq!(naming.role(name, None), Role::Uplink, "{name}");
        }
        // A bridge is one by an operator's own pattern.
        assert_eq!(Naming::new("^br0$", "cali").unwrap().role("br0", None), Role::Uplink);
        assert_eq!(
            naming.role("cali1", Some(7)),
            Role::Pod,
            "its source is checked wherever it is plugged in"
        );
    }
}
