//! The fields of BGPFilter, as strict as Calico's resource definition.

use manx_net::Prefix;

use crate::{
    fields::Fields,
    read::value,
    spec::{
        BgpFilter, CidrMatch, Community, FilterAction, FilterOperation, FilterRule, MatchOperator, PeerType,
    },
};

/// The greatest priority: one less than what LOCAL_PREF is counted down from.
const MAX_PRIORITY: i64 = 2_147_483_646;
const MAX_OPERATIONS: usize = 10;
const MAX_PREPENDED: usize = 10;

pub(super) fn read(document: &mut Fields<'_, '_>) -> Option<BgpFilter> {
    let Some(mut spec) = document.object("spec") else {
        // A filter without rules is one that lets everything through to the next.
        return (!document.is_set("spec")).then(BgpFilter::default);
    };
    let read = BgpFilter {
        export_v4: rules(&mut spec, "exportV4", 32),
        import_v4: rules(&mut spec, "importV4", 32),
        export_v6: rules(&mut spec, "exportV6", 128),
        import_v6: rules(&mut spec, "importV6", 128),
    };
    spec.finish();
    Some(read)
}

/// `longest`: the length of the family's addresses.
fn rules(spec: &mut Fields<'_, '_>, name: &'static str, longest: u8) -> Vec<FilterRule> {
    spec.objects(name).into_iter().filter_map(|fields| rule(fields, longest)).collect()
}

fn rule(mut fields: Fields<'_, '_>, longest: u8) -> Option<FilterRule> {
    let cidr = cidr(&mut fields, longest);
    let source = fields.choice("source", &[("RemotePeers", ())]);
    let interface = fields.parse("interface", value::interface_pattern);
    let peer_type = fields.choice("peerType", &[("eBGP", PeerType::Ebgp), ("iBGP", PeerType::Ibgp)]);
    let community = community_match(&mut fields);
    let as_path_prefix = fields.parse_each("asPathPrefix", str::parse);
    let priority = priority(&mut fields, "priority");
    let action =
        fields.choice("action", &[("Accept", FilterAction::Accept), ("Reject", FilterAction::Reject)]);
    if action.is_none() && !fields.is_set("action") {
        fields.refuse("action", "is missing; write Accept or Reject");
    }
    let operations = operations(&mut fields);
    if !operations.is_empty() && action == Some(FilterAction::Reject) {
        fields.refuse("operations", "operations may only be used with action Accept");
    }
    fields.finish();
    Some(FilterRule {
        cidr,
        remote_peers: source.is_some(),
        interface,
        peer_type,
        community,
        as_path_prefix,
        priority,
        action: action?,
        operations,
    })
}

fn cidr(fields: &mut Fields<'_, '_>, longest: u8) -> Option<CidrMatch> {
    let prefix: Option<Prefix> = fields.parse("cidr", str::parse);
    let operator = fields.choice(
        "matchOperator",
        &[
            ("Equal", MatchOperator::Equal),
            ("NotEqual", MatchOperator::NotEqual),
            ("In", MatchOperator::In),
            ("NotIn", MatchOperator::NotIn),
        ],
    );
    let lengths = fields.object("prefixLength").map(|mut lengths| {
        let mut length =
            |name| lengths.integer(name, 0..=i64::from(longest)).and_then(|length| u8::try_from(length).ok());
        let range = (length("min"), length("max"));
        lengths.finish();
        range
    });
    if fields.is_set("cidr") != fields.is_set("matchOperator") {
        let missing = if fields.is_set("cidr") { "matchOperator" } else { "cidr" };
        fields.refuse(missing, "cidr and matchOperator must both be set or both be empty");
    }
    if lengths.is_some() && !fields.is_set("cidr") {
        fields.refuse("prefixLength", "cidr is required when prefixLength is set");
    }
    let prefix = prefix?;
    if prefix.is_v4() != (longest == 32) {
        let (is, must) = if prefix.is_v4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        fields.refuse("cidr", format!("{prefix} is an {is} prefix in a list of rules for {must}"));
        return None;
    }
    let lengths = lengths.map(|(min, max)| (min.unwrap_or(0).max(prefix.len()), max.unwrap_or(longest)));
    if let Some((min, max)) = lengths
        && min > max
    {
        let within = prefix.len();
        fields.warn(
            "prefixLength",
            format!(
                "no length is at least {min} and at most {max} (the cidr's own is {within}): no prefix fits"
            ),
        );
    }
    Some(CidrMatch { prefix, operator: operator?, lengths })
}

fn community_match(fields: &mut Fields<'_, '_>) -> Option<Community> {
    let mut communities = fields.object("communities")?;
    let values = communities.parse_each("values", value::community);
    let written = communities.length_of("values");
    if written != 1 {
        communities.refuse("values", format!("must be exactly one community, not {written}"));
    }
    communities.finish();
    values.into_iter().next()
}

fn priority(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<u32> {
    fields.integer(name, 1..=MAX_PRIORITY).and_then(|value| u32::try_from(value).ok())
}

fn operations(fields: &mut Fields<'_, '_>) -> Vec<FilterOperation> {
    let written = fields.length_of("operations");
    if written > MAX_OPERATIONS {
        fields.refuse("operations", format!("must be at most {MAX_OPERATIONS} operations, not {written}"));
    }
    if written == 0 && fields.is_set("operations") {
        fields.refuse("operations", "is empty; write an operation, or leave the field out");
    }
    fields.objects("operations").into_iter().filter_map(operation).collect()
}

fn operation(mut fields: Fields<'_, '_>) -> Option<FilterOperation> {
    let add = fields.object("addCommunity").map(|mut add| {
        let value = add.parse("value", value::community);
        require(&add, "value");
        add.finish();
        value.map(FilterOperation::AddCommunity)
    });
    let prepend = fields.object("prependASPath").map(|mut prepend| {
        let numbers = prepend.parse_each("prefix", str::parse);
        let written = prepend.length_of("prefix");
        if !(1..=MAX_PREPENDED).contains(&written) {
            prepend.refuse("prefix", format!("must be 1 to {MAX_PREPENDED} AS numbers, not {written}"));
        }
        prepend.finish();
        Some(FilterOperation::PrependAsPath(numbers))
    });
    let set = fields.object("setPriority").map(|mut set| {
        let value = priority(&mut set, "value");
        require(&set, "value");
        set.finish();
        value.map(FilterOperation::SetPriority)
    });
    let names = ["addCommunity", "prependASPath", "setPriority"];
    if names.iter().filter(|name| fields.is_set(name)).count() != 1 {
        fields.refuse_all(format!("exactly one operation must be set: one of {}", names.join(", ")));
    }
    fields.finish();
    add.or(prepend).or(set).flatten()
}

fn require(fields: &Fields<'_, '_>, name: &str) {
    if !fields.is_set(name) {
        fields.refuse(name, "is missing");
    }
}
