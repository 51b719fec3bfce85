//! What a link is, by its name: uplinks match a pattern, pod interfaces have a prefix.

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

    /// A pod interface is never an uplink, whatever the pattern says.
    pub fn role(&self, name: &str) -> Role {
        if !self.pod_prefix.is_empty() && name.starts_with(&self.pod_prefix) {
            Role::Pod
        } else if self.uplinks.is_match(name) {
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
            assert_eq!(naming.role(name), Role::Uplink, "{name}");
        }
        for name in ["docker0", "lo", "tunl0", "vxlan.calico", "kube-ipvs0", "veth1"] {
            assert_eq!(naming.role(name), Role::Other, "{name}");
        }
        assert_eq!(naming.role("cali0123456789a"), Role::Pod);
    }

    #[test]
    fn a_pod_interface_is_no_uplink_even_if_the_pattern_matches_everything() {
        assert_eq!(Naming::new(".*", "cali").unwrap().role("cali1"), Role::Pod);
    }
}
