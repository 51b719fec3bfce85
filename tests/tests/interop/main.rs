//! Manx against BIRD 2, FRR, GoBGP and ExaBGP, each as Debian packages it: sessions dialled by either side over IPv4
//! and IPv6, within an AS and between ASes whose numbers need four octets, reflection in both roles, refresh,
//! communities, shutdown texts, roles, several paths for a prefix, what an operator sees and orders, and graceful restart of either side under
//! traffic. Every capture is decoded by tshark. The seed's story with BIRD in a node's place is `seed` and `restart`.

mod add_path;
mod alarms;
mod answers;
mod blackhole;
mod clients;
mod filters;
mod history;
mod ipv4_by_ipv6;
mod lab;
mod long_lived;
mod long_messages;
mod operator;
mod protected;
mod reachable_by;
mod restart;
mod roles;
mod sessions;
mod settings;
mod slow_writer;
mod wire;
