//! The fields of FelixConfiguration that Manx heeds, the names of all others, and CalicoNodeStatus.

use crate::{
    fields::{Fields, Form},
    read::value,
    spec::{CalicoNodeStatus, FelixConfiguration, ProgramClusterRoutes},
    tree::excerpt,
};

/// What is Felix's own business.
const OTHERS: &str = "\
    allowIPIPPacketsFromWorkloads allowVXLANPacketsFromWorkloads awsSrcDstCheck bpfAttachType bpfCTLBLogFilter \
    bpfConnectTimeLoadBalancing bpfConnectTimeLoadBalancingEnabled bpfConntrackLogLevel bpfConntrackMode \
    bpfConntrackTimeouts bpfDSROptoutCIDRs bpfDisableGROForIfaces bpfDisableUnprivileged bpfExcludeCIDRsFromNAT \
    bpfExportBufferSizeMB bpfExtToServiceConnmark bpfExternalServiceMode bpfForceTrackPacketsFromIfaces \
    bpfHostConntrackBypass bpfHostNetworkedNATWithoutCTLB bpfIPFragTimeout bpfIPFragmentReassemblyEnabled \
    bpfJITHardening bpfKubeProxyHealthzPort bpfKubeProxyIptablesCleanupEnabled bpfKubeProxyMinSyncPeriod \
    bpfL3IfacePattern bpfLogFilters bpfLogLevel bpfMaglevMaxEndpointsPerService bpfMaglevMaxServices \
    bpfMapSizeConntrack bpfMapSizeConntrackCleanupQueue bpfMapSizeConntrackScaling bpfMapSizeIPSets \
    bpfMapSizeIfState bpfMapSizeNATAffinity bpfMapSizeNATBackend bpfMapSizeNATFrontend \
    bpfMapSizePerCpuConntrack bpfMapSizeRoute bpfOverlayHostSourceIP bpfPSNATPorts bpfPolicyDebugEnabled \
    bpfProfiling bpfRedirectToPeer cgroupV2Path chainInsertMode dataplaneDriver dataplaneWatchdogTimeout \
    debugDisableLogDropping debugHost debugMemoryProfilePath debugPort debugSimulateCalcGraphHangAfter \
    debugSimulateDataplaneApplyDelay debugSimulateDataplaneHangAfter defaultEndpointToHostAction \
    deviceRouteSourceAddress deviceRouteSourceAddressIPv6 disableConntrackInvalidCheck endpointReportingDelay \
    endpointReportingEnabled endpointStatusPathPrefix externalNodesList failsafeInboundHostPorts \
    failsafeOutboundHostPorts featureDetectOverride featureGates floatingIPs flowLogsCollectorDebugTrace \
    flowLogsFlushInterval flowLogsGoldmaneServer flowLogsLocalReporter flowLogsPolicyEvaluationMode \
    genericXDPEnabled goGCThreshold goMaxProcs goMemoryLimitMB healthEnabled healthHost healthPort \
    healthTimeoutOverrides interfaceExclude interfaceRefreshInterval ipForwarding ipipEnabled ipipMTU \
    ipsetsRefreshInterval iptablesBackend iptablesFilterAllowAction iptablesFilterDenyAction \
    iptablesLockProbeInterval iptablesMangleAllowAction iptablesMarkMask iptablesNATOutgoingInterfaceFilter \
    iptablesPostWriteCheckInterval iptablesRefreshInterval ipv6Support istioAmbientMode istioDSCPMark \
    kubeNodePortRanges liveMigrationRouteConvergenceTime localSubnetL2Reachability \
    localSubnetL2ReachabilityRefreshInterval logActionRateLimit logActionRateLimitBurst logDebugFilenameRegex \
    logFilePath logPrefix logSeverityFile logSeverityScreen logSeveritySys maxIpsetSize metadataAddr \
    metadataPort mtuIfacePattern natOutgoingAddress natOutgoingExclusions natPortRange netlinkTimeout \
    nftablesFilterAllowAction nftablesFilterDenyAction nftablesFlowTableDataIfacePattern \
    nftablesFlowTableOffload nftablesMangleAllowAction nftablesMarkMask nftablesMode nftablesRefreshInterval \
    nodeSelector openstackRegion policySyncPathPrefix prometheusGoMetricsEnabled prometheusMetricsCAFile \
    prometheusMetricsCertFile prometheusMetricsClientAuth prometheusMetricsEnabled prometheusMetricsHost \
    prometheusMetricsKeyFile prometheusMetricsPort prometheusProcessMetricsEnabled \
    prometheusWireGuardMetricsEnabled reportingInterval reportingTTL requireMTUFile routeRefreshInterval \
    routeSource routeSyncDisabled routeTableRange routeTableRanges sidecarAccelerationEnabled \
    usageReportingEnabled usageReportingInitialDelay usageReportingInterval useInternalDataplaneDriver \
    vxlanEnabled vxlanMTU vxlanMTUV6 vxlanPort vxlanVNI windowsManageFirewallRules wireguardEnabled \
    wireguardEnabledV6 wireguardHostEncryptionEnabled wireguardInterfaceName wireguardInterfaceNameV6 \
    wireguardKeepAlive wireguardListeningPort wireguardListeningPortV6 wireguardMTU wireguardMTUV6 \
    wireguardRoutingRulePriority wireguardThreadingEnabled workloadSourceSpoofing xdpEnabled xdpRefreshInterval";

const CLUSTER_ROUTES: [(&str, ProgramClusterRoutes); 4] = [
    ("Enabled", ProgramClusterRoutes::Enabled),
    ("Disabled", ProgramClusterRoutes::Disabled),
    ("EnabledIPIPOnly", ProgramClusterRoutes::EnabledIpipOnly),
    ("EnabledNoEncapOnly", ProgramClusterRoutes::EnabledNoEncapOnly),
];

pub(super) fn configuration(document: &mut Fields<'_, '_>, name: &str) -> Option<FelixConfiguration> {
    let of_node = name.strip_prefix("node.").is_some_and(|node| !node.is_empty());
    if !name.is_empty() && name != "default" && !of_node {
        let text = "a FelixConfiguration has an effect under the name default or node.NAME only";
        document.warn("metadata", format!("{text}, not \"{}\"", excerpt(name)));
    }
    let Some(mut spec) = document.object("spec") else {
        return (!document.is_set("spec")).then(FelixConfiguration::default);
    };
    let mut priority =
        |field| spec.integer(field, 1..=2_147_483_646).and_then(|priority| u32::try_from(priority).ok());
    let (ipv4_normal_route_priority, ipv6_normal_route_priority) =
        (priority("ipv4NormalRoutePriority"), priority("ipv6NormalRoutePriority"));
    for elevated in ["ipv4ElevatedRoutePriority", "ipv6ElevatedRoutePriority"] {
        priority(elevated);
    }
    let protocol = spec.integer("deviceRouteProtocol", 0..=255);
    let read = FelixConfiguration {
        bpf_enabled: spec.boolean("bpfEnabled"),
        program_cluster_routes: spec.choice("programClusterRoutes", &CLUSTER_ROUTES),
        interface_prefix: spec.text("interfacePrefix").map(str::to_owned),
        device_route_protocol: protocol.and_then(|protocol| u8::try_from(protocol).ok()),
        ipv4_normal_route_priority,
        ipv6_normal_route_priority,
    };
    spec.choice("serviceLoopPrevention", &[("Drop", ()), ("Reject", ()), ("Disabled", ())]);
    spec.accept(&[
        ("removeExternalRoutes", Form::Bool),
        ("bpfDataIfacePattern", Form::Text),
        ("bpfEnforceRPF", Form::Text),
    ]);
    for other in OTHERS.split(' ') {
        spec.accept(&[(other, Form::Any)]);
    }
    spec.finish();
    Some(read)
}

pub(super) fn node_status(document: &mut Fields<'_, '_>) -> Option<CalicoNodeStatus> {
    let Some(mut spec) = document.object("spec") else {
        if !document.is_set("spec") {
            document.refuse(
                "spec",
                "is missing; a CalicoNodeStatus needs spec.node, spec.classes and spec.updatePeriodSeconds",
            );
        }
        return None;
    };
    for (field, example) in
        [("node", "the name of a node"), ("classes", "[Agent, BGP, Routes]"), ("updatePeriodSeconds", "10")]
    {
        if !spec.is_set(field) {
            spec.refuse(field, format!("is missing; write {field}: {example}"));
        }
    }
    let node = spec.parse("node", |text| value::name(text).map(|_| text.to_owned()));
    let mut classes: Vec<String> = Vec::new();
    for class in spec.texts("classes") {
        if !["Agent", "BGP", "Routes"].contains(&class) {
            spec.refuse("classes", format!("\"{}\" is not one of Agent, BGP, Routes", excerpt(class)));
        } else if classes.iter().any(|known| known == class) {
            spec.refuse("classes", format!("\"{class}\" is given twice"));
        } else {
            classes.push(class.to_owned());
        }
    }
    let period = spec.integer("updatePeriodSeconds", 0..=86_400);
    spec.finish();
    Some(CalicoNodeStatus {
        node: node?,
        classes,
        update_period_seconds: period.and_then(|period| u32::try_from(period).ok())?,
    })
}
